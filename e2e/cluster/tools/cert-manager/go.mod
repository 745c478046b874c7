// cert-manager's custom resources at one exact version, which what the chart renders is held against.
module seawall.dev/e2e/cluster/tools/cert-manager

go 1.26.0

require github.com/cert-manager/cert-manager v1.21.2
