"""The Kubernetes manifests in `infra/`: how they are rendered, checked and tried."""
