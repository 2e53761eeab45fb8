"""Where the candidates of a dataset come from: folders, manifests, hub datasets."""
