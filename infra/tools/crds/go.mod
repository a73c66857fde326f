module rsketch.invalid/crds

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/open-telemetry/opentelemetry-operator v0.141.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
