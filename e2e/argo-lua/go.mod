// Runs health checks in the Lua that Argo CD runs them in.
module seawall.dev/e2e/argo-lua

go 1.26.0

require github.com/yuin/gopher-lua v1.1.2
