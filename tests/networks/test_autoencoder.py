"""The codecs: exactness against diffusers, losslessness, and that they stay out of the way of a module."""

import copy

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models import modeling_utils

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.autoencoder import TAESD, KLAutoencoder, PixelUnshuffle


@pytest.fixture
def vae(sd_folder):
    return KLAutoencoder(str(sd_folder))


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taesd")
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderTiny(**channels, **blocks).save_pretrained(folder)
    return str(folder)


def images(n=2, size=(32, 24)):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_sample_mode_and_decode_are_those_of_diffusers(sd_folder):
    vae = KLAutoencoder(str(sd_folder / "vae"), subfolder=None)
    assert (vae.channels, vae.factor, vae.scaling_factor) == (4, 8, 0.18215)
    x, noise = images()[:1], torch.randn(1, 4, 4, 3)
    posterior, moments = vae.model.encode(x).latent_dist, vae.moments(x)
    z = (posterior.mean + posterior.std * noise) * 0.18215
    assert torch.equal(vae.sample(moments, noise), z)
    assert torch.equal(vae.mode(moments), posterior.mode())  # not scaled
    assert torch.equal(vae.decode(z), vae.model.decode(z / 0.18215).sample)


def test_a_batch_is_its_images_one_by_one_to_the_last_bit(vae):
    x, z = images(), torch.randn(2, 4, 4, 3)
    moments = vae.moments(x)
    assert torch.equal(moments, torch.cat([vae.moments(one) for one in x.split(1)]))
    assert torch.equal(vae.decode(z), torch.cat([vae.decode(one) for one in z.split(1)]))
    torch.testing.assert_close(moments[:, :4], vae.model.encode(x).latent_dist.mean, rtol=1e-4, atol=1e-5)


def test_logvar_is_clamped_as_in_diffusers(vae):
    with torch.no_grad():
        vae.model.quant_conv.bias[4:] = torch.tensor([-1e3, 1e3, 0.0, 0.0])
    logvar = vae.moments(images())[:, 4:]
    assert logvar.min() == -30 and logvar.max() == 20


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pixel_unshuffle_is_lossless_and_never_clamps(factor):
    codec, x = PixelUnshuffle(factor), images() * 3
    moments = codec.moments(x)
    assert moments.shape == (2, 2 * codec.channels, 32 // factor, 24 // factor) and moments.isfinite().all()
    z = codec.sample(moments, torch.randn(2, codec.channels, 32 // factor, 24 // factor))
    assert torch.equal(codec.decode(z), x) and torch.equal(z, codec.mode(moments))


@torch.no_grad()
def test_taesd_is_a_point_and_may_stand_in_for_the_kl_autoencoder(taesd):
    plain, scaled = TAESD(taesd), TAESD(taesd, latent_scale=0.18215)
    latents = torch.cat([plain.model.encode(one).latents for one in images().split(1)])
    assert (plain.factor, plain.channels, plain.scaling_factor) == (8, 4, 1.0)
    assert torch.equal(plain.mode(plain.moments(images())), latents)
    moments = scaled.moments(images())
    torch.testing.assert_close(scaled.mode(moments) * 0.18215, latents)
    torch.testing.assert_close(scaled.sample(moments, torch.randn(2, 4, 4, 3)), latents)
    assert torch.equal(scaled.decode(latents), plain.decode(latents))
    with pytest.raises(UserError):
        TAESD(taesd, latent_scale=0.0)


def test_frozen_shared_and_absent_from_a_module(vae):
    assert not any(p.requires_grad for p in vae.model.parameters()) and not vae.model.training
    holder = torch.nn.Module()
    holder.vae = vae
    assert not holder.state_dict() and not list(holder.parameters())
    assert copy.deepcopy(holder).vae is vae
    x = images().requires_grad_()
    assert not vae.moments(x).requires_grad and not vae.decode(torch.zeros(1, 4, 2, 2).requires_grad_()).requires_grad


def test_half_precision_in_place(vae):
    assert vae.to(dtype=torch.bfloat16) is vae and vae.model.dtype == torch.bfloat16
    moments = vae.moments(images())
    assert moments.dtype == torch.float32 and vae.decode(vae.mode(moments)).dtype == torch.float32
    assert PixelUnshuffle().to("cpu", torch.bfloat16).moments(images()).dtype == torch.float32


def test_autocast_does_not_lower_its_precision(vae):
    plain = vae.moments(images())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.moments(images()), plain)


def test_digest_tells_weights_apart_and_survives_saving(vae, tmp_path):
    vae.save(tmp_path / "vae")
    again = KLAutoencoder(str(tmp_path))
    assert again.digest() == vae.digest() and len(vae.digest()) == 64
    with torch.no_grad():
        again.model.quant_conv.bias[0] += 1e-3
    assert again.digest() != vae.digest()
    assert PixelUnshuffle(2).digest() == PixelUnshuffle(2).digest() != PixelUnshuffle(4).digest()


def test_refusals(vae, tmp_path):
    with pytest.raises(UserError, match="30x24 is not a multiple of 8"):
        vae.moments(images(size=(30, 24)))
    with pytest.raises(UserError, match="no diffusers layout"):
        PixelUnshuffle().save(tmp_path)
    with pytest.raises(UserError):
        PixelUnshuffle(0)
    with pytest.raises(UserError, match="hf download"):
        KLAutoencoder(str(tmp_path / "none"))


def test_a_move_is_no_cast_to_diffusers(vae, monkeypatch):
    """diffusers warns of modules that should be kept in float32, and names none, wherever it is given a dtype."""
    monkeypatch.setattr(modeling_utils.logger, "warning", pytest.fail)
    assert vae.to("cpu") is vae
