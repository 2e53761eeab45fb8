"""Building datasets: candidates from a source, an audit of each, leak-free splits, Parquet shards and a card.

`Origin.list` lists the candidates; they are divided into chunks; `chunks` examines and writes each one (in parallel, on
one machine or many); `assemble` assigns splits and writes the dataset. The output of every step depends only on its
input, so a killed build continues to the same bytes.
"""

from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.sources.folder_layout import FolderOrigin
from ip2p_lightning.curation.sources.hub import HubOrigin
from ip2p_lightning.curation.sources.manifest import ManifestOrigin

__all__ = ["Audit", "FolderOrigin", "HubOrigin", "ManifestOrigin"]
