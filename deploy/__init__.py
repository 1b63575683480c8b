"""Generator of the Helm chart's files, and of the manifests that are rendered from it."""
