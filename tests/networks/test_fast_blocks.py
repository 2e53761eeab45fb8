"""Blocks while they sample: each rewriting by itself gives the block's own output, and knows what it may not touch."""

import pytest
import torch

from ip2p_lightning.networks.autoencoder import KLAutoencoder
from ip2p_lightning.networks.fast_blocks import flat, joined, once, padded
from ip2p_lightning.networks.fast_sampling import RULES, leaner
from ip2p_lightning.networks.unet import load_unet
from tests.support.sd_checkpoint import TEXT_WIDTH


@pytest.fixture(scope="module")
def unet(checkpoints):
    return load_unet(checkpoints[8]).eval()


def shown(branches, photos=2, length=7, layout=torch.channels_last):
    """What guidance stacks: the first two branches differ in their text alone, the third in its image too."""
    g = torch.Generator().manual_seed(0)
    one = torch.randn(photos, 8, 8, 8, generator=g)
    x = torch.cat([one, one, torch.cat([one[:, :4], 0 * one[:, 4:]], 1)][:branches]).to(memory_format=layout)
    return x, torch.full((len(x),), 9), torch.randn(len(x), length, TEXT_WIDTH, generator=g)


def call(unet, x, t, text, **words):
    return unet(x, t, encoder_hidden_states=text, return_dict=False, **words)[0]


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_rule_alone_changes_no_more_than_float_noise(unet, rule, branches, layout):
    for length in (7, 16):
        given = shown(branches, length=length, layout=layout)
        plain = call(unet, *given)
        with leaner(unet, rules=(rule,)):
            assert (call(unet, *given) - plain).abs().max() <= 1e-5 * plain.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("rules", [(joined,), RULES])
def test_a_photo_is_encoded_and_decoded_the_same(checkpoints, rules):
    autoencoder = KLAutoencoder(checkpoints[8])
    z, x = torch.randn(2, 4, 5, 7), torch.rand(2, 3, 40, 56) * 2 - 1
    plain = autoencoder.decode(z), autoencoder.moments(x)
    with leaner(autoencoder.model, rules=rules):
        found = autoencoder.decode(z), autoencoder.moments(x)
    for a, b in zip(found, plain, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.std()


@torch.no_grad()
@pytest.mark.parametrize(("branches", "rows"), [(1, 2), (2, 2), (3, 4)])
def test_what_comes_before_the_text_is_computed_once(unet, branches, rows):
    seen, norm = [], unet.down_blocks[0].resnets[0].norm1
    counted = norm.register_forward_pre_hook(lambda part, given: seen.append(len(given[0])))
    with counted, leaner(unet, rules=(once,)):
        call(unet, *shown(branches))
        x, t, text = shown(branches)
        call(unet, x + torch.arange(len(x)).view(-1, 1, 1, 1), t, text)  # no two rows alike
        call(unet, x, torch.arange(len(x)), text)  # nor any two times
    assert seen == [rows, 2 * branches, 2 * branches]


@torch.no_grad()
def test_masks_are_left_to_the_block_itself(unet):
    x, t, text = shown(2)
    mask = torch.ones(len(x), text.shape[1])
    mask[:, 4:] = 0
    plain = call(unet, x, t, text, encoder_attention_mask=mask)
    with leaner(unet, rules=(flat, padded)):
        assert torch.equal(call(unet, x, t, text, encoder_attention_mask=mask), plain)
    assert not torch.allclose(plain, call(unet, x, t, text))


@torch.no_grad()
def test_nothing_changes_under_autocast(unet):
    given = shown(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = call(unet, *given)
        with leaner(unet, rules=(joined, flat)):
            found = call(unet, *given)
    assert found.dtype == plain.dtype and torch.equal(found, plain)


@torch.no_grad()
def test_what_a_block_is_given_is_not_written_over(unet):
    block = unet.down_blocks[0].resnets[0]
    transformer, (x, _, text) = unet.down_blocks[0].attentions[0], shown(1)
    x = torch.randn(2, block.in_channels, 8, 8).to(memory_format=torch.channels_last)
    before, temb = x.clone(), torch.randn(2, block.time_emb_proj.in_features)
    with leaner(unet):
        block(x, temb), transformer(x, encoder_hidden_states=text, return_dict=False)
        assert transformer(x, encoder_hidden_states=text).sample.shape == x.shape  # as others call it
    assert torch.equal(x, before)
