"""Sources of pairs: photos with a degradation or teacher, folders, manifests, hub and built datasets."""
