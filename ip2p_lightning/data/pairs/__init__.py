"""Sources of pairs: photos with a degradation or teacher, folders, manifests, hub and built datasets."""

from ip2p_lightning.data.pairs.folder import Folder
from ip2p_lightning.data.pairs.hub import HubDataset
from ip2p_lightning.data.pairs.manifest import Manifest
from ip2p_lightning.data.pairs.parquet import Built
from ip2p_lightning.data.pairs.photos import Photos
from ip2p_lightning.data.pairs.protocol import Maker, Pairs, Source, Split

__all__ = ["Built", "Folder", "HubDataset", "Maker", "Manifest", "Pairs", "Photos", "Source", "Split"]
