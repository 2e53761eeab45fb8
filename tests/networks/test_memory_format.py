"""Channels-last weights are copies; nothing is left of the file that they were read from."""

import copy
import gc
import sys
from pathlib import Path

import pytest
import torch

from ip2p_lightning.networks.memory_format import to_channels_last
from ip2p_lightning.networks.unet import load_unet


def maps_of(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_file_is_not_mapped_any_more(sd_folder):
    unet = load_unet(str(sd_folder))
    before, mapped = copy.deepcopy(unet.state_dict()), maps_of(sd_folder / "unet")
    to_channels_last(unet)
    gc.collect()
    assert mapped > 0 and maps_of(sd_folder / "unet") < mapped
    assert all(torch.equal(parameter, before[name]) for name, parameter in unet.named_parameters())
    wide = [p for p in unet.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
