"""Sources of pairs: photos with a degradation or teacher, folders, manifests, hub and built datasets."""

from ip2p_lightning.data.sources.base import Maker, Pairs, Source, Split
from ip2p_lightning.data.sources.built import Built
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.data.sources.hub import HubDataset
from ip2p_lightning.data.sources.manifest import Manifest
from ip2p_lightning.data.sources.photos import Photos

__all__ = ["Built", "Folder", "HubDataset", "Maker", "Manifest", "Pairs", "Photos", "Source", "Split"]
