"""Surgery on the UNet: nothing changes until it learns, whatever the image."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.conditioning import Condition
from ip2p_lightning.networks.unet import apply_unet, load_unet, widen
from tests.support.sd_checkpoint import TEXT_WIDTH, write_sd_checkpoint


def base(path):
    return UNet2DConditionModel.from_pretrained(path, subfolder="unet").eval()


def inputs():
    g = torch.Generator().manual_seed(0)
    condition = Condition(torch.randn(2, 4, 8, 8, generator=g) * 5, torch.randn(2, 7, TEXT_WIDTH, generator=g))
    return torch.randn(2, 4, 8, 8, generator=g), torch.tensor([3, 900]), condition


@torch.no_grad()
def test_widening_changes_nothing_for_any_image_but_upstreams_lost_bias_does(checkpoints):
    z, t, condition = inputs()
    plain = base(checkpoints[4])(z, t, condition.text).sample
    assert torch.equal(apply_unet(load_unet(checkpoints[4]), z, t, condition), plain)
    assert (apply_unet(load_unet(checkpoints[4], copy_bias=False), z, t, condition) - plain).abs().max() > 1e-3


def test_an_editor_is_taken_as_it_is(checkpoints):
    ours, theirs = load_unet(checkpoints[8]).state_dict(), base(checkpoints[8]).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_image_half_learns_and_a_widened_unet_survives_saving(checkpoints, tmp_path):
    unet = load_unet(checkpoints[4])
    apply_unet(unet, *inputs()).square().mean().backward()
    assert unet.conv_in.weight.grad[:, 4:].abs().max() > 0
    unet.save_pretrained(tmp_path / "unet")
    again = load_unet(str(tmp_path))
    assert again.config.in_channels == 8 and torch.equal(again.conv_in.weight, unet.conv_in.weight)


def test_other_latents(checkpoints):
    unet = widen(base(checkpoints[4]), image_channels=12)
    assert unet.conv_in.weight.shape[1] == unet.config.in_channels == 16 and not unet.conv_in.weight[:, 4:].any()


def test_other_counts_are_refused(tmp_path):
    with pytest.raises(UserError, match="5 input channels"):
        load_unet(str(write_sd_checkpoint(tmp_path, in_channels=5)))


@torch.no_grad()
def test_a_half_precision_unet_keeps_the_latents_dtype(checkpoints):
    z, t, condition = inputs()
    assert apply_unet(load_unet(checkpoints[8]).bfloat16(), z, t, condition).dtype == torch.float32


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "nowhere"])
def test_missing_weights_say_how_to_get_them(path):
    with pytest.raises(UserError, match=r"hf download .* --local-dir DIR.*model.path=DIR") as caught:
        load_unet(path)
    assert "\n" not in str(caught.value) and caught.value.code == 2


def test_a_missing_repository_says_how_to_get_it(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", unreachable)
    with pytest.raises(UserError, match="hf download someone/model --local-dir DIR") as caught:
        load_unet("someone/model")
    assert "\n" not in str(caught.value)


def test_damaged_and_incomplete_weights_are_told_apart_from_missing_ones(tmp_path):
    folder = str(write_sd_checkpoint(tmp_path))
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.weight"]
    save_file(weights, file)
    with pytest.raises(DamagedError, match=r"conv_out\.weight"):
        load_unet(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DamagedError):
        load_unet(folder)
    file.unlink()
    with pytest.raises(UserError, match="hf download"):
        load_unet(folder)
