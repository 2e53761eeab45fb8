"""The UNet while it samples: the same outputs for less, and afterwards as it was."""

import copy

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from ip2p_lightning.networks.conditioning import Condition
from ip2p_lightning.networks.fast_sampling import leaner
from ip2p_lightning.networks.pixel_unet import PixelEditor
from ip2p_lightning.networks.unet import apply_unet, load_unet
from tests.support.sd_checkpoint import TEXT_WIDTH


@pytest.fixture(scope="module")
def unet(checkpoints):
    return load_unet(checkpoints[8])


def changed(network):
    return {part for part in network.modules() if "forward" in vars(part)}


def inputs(seed=0):
    g = torch.Generator().manual_seed(seed)
    condition = Condition(torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 7, TEXT_WIDTH, generator=g))
    return torch.randn(2, 4, 8, 8, generator=g), torch.tensor([3, 900]), condition


@torch.no_grad()
def test_outputs_are_the_same_up_to_float_noise(unet):
    z, t, condition = inputs()
    plain = apply_unet(unet, z, t, condition)
    with leaner(unet):
        first, again = apply_unet(unet, z, t, condition), apply_unet(unet, z, t, condition)
        other = apply_unet(unet, z, t, inputs(1)[2])
    assert torch.equal(first, again) and (first - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert (other - apply_unet(unet, z, t, inputs(1)[2])).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(apply_unet(unet, z, t, condition), plain)  # and it is as it was
    assert not changed(unet)


class Counted(nn.Linear):
    """A layer that counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@torch.no_grad()
def test_keys_and_values_are_computed_once_a_text(unet):
    unet = copy.deepcopy(unet)
    cross, own = [], []
    for name, part in unet.named_modules():
        if name.endswith(("to_k", "to_v")):
            part.__class__ = Counted
            (cross if ".attn2." in name else own).append(part)
    z, t, condition = inputs()
    twin = condition._replace(text=condition.text.clone())  # equal, but another tensor: nothing is assumed
    with leaner(unet):
        for shown in (condition, condition, condition, twin):
            apply_unet(unet, z, t, shown)
    assert cross and {layer.calls for layer in cross} == {2} and {layer.calls for layer in own} == {4}


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2)])
def test_a_doubling_is_four_small_convolutions(layout, size):
    part = Upsample2D(3, use_conv=True, out_channels=5).to(memory_format=layout)
    x = torch.randn(2, 3, *size).to(memory_format=layout)
    plain, odd = part(x), part(x, (2 * size[0] - 1, 2 * size[1]))
    with leaner(part):
        found, same = part(x), part(x, (2 * size[0] - 1, 2 * size[1]))
        assert torch.equal(part(x, (2 * size[0], 2 * size[1])), found)
    assert found.shape == plain.shape and (found - plain).abs().max() <= 1e-5
    assert torch.equal(odd, same)  # not a doubling: left to the layer itself


def test_an_error_inside_leaves_the_unet_as_it_was(unet):
    with pytest.raises(RuntimeError, match="stop"), leaner(unet):
        assert changed(unet)
        raise RuntimeError("stop")
    assert not changed(unet)


def test_other_networks_and_other_peoples_layers_are_left_alone(unet):
    with leaner(None):  # an autoencoder without weights
        pass
    editor = PixelEditor()
    with leaner(editor):
        assert not changed(editor)
    unet = copy.deepcopy(unet)
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn2.to_k"))
    layer.forward = own = lambda text: text
    with leaner(unet):
        assert layer.forward is own
    assert layer.forward is own
    unet.compile_repeated_blocks(backend="eager")
    with leaner(unet):
        compiled = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
        assert compiled and not [m for block in compiled for m in block.modules() if m in changed(unet) - {layer}]
        assert {"Upsample2D", "ResnetBlock2D", "Transformer2DModel"} <= {type(m).__name__ for m in changed(unet)}
