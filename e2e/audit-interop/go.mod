// Reads an audit log with Go's own transparency-log packages, which share no code with Seawall.
module seawall.dev/e2e/audit-interop

go 1.26.0

require golang.org/x/mod v0.42.0
