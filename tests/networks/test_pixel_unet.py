"""The tiny model's backbone: a UNet2DConditionModel to its callers, the identity at the start."""

import pytest
import torch

import ip2p_lightning  # noqa: F401  torchvision must be importable before diffusers
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.pixel_unet import PixelEditor

SMALL = {"widths": (8, 12, 16), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1), "embedding_dim": 16}


def editor(seed=0, awake=True, **config):
    """A small editor; `awake`: with a last layer that is no longer zero."""
    torch.manual_seed(seed)
    net = PixelEditor(cross_attention_dim=8, **(SMALL | config))
    if awake:
        for layer in (net.exit, net.tone.affine):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return net


def inputs(batch=2, height=16, width=16, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.rand(batch, 24, height, width, generator=generator) * 2 - 1
    return sample, torch.tensor([0.0, 700.0][:batch]), torch.randn(batch, tokens, 8, generator=generator)


def test_output_is_exactly_zero_at_initialisation_and_the_first_step_already_has_a_gradient():
    net = editor(awake=False)
    out = net(*inputs()).sample
    assert torch.equal(out, torch.zeros(2, 12, 16, 16))
    (out - 1).pow(2).mean().backward()
    assert net.exit.weight.grad.abs().max() > 0 and net.tone.affine.weight.grad.abs().max() > 0


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (37, 53), (1, 9), (14, 30)])
def test_any_latent_size(size):
    out = editor()(*inputs(height=size[0], width=size[1])).sample
    assert out.shape == (2, 12, *size) and out.isfinite().all()


@pytest.mark.parametrize("timestep", [250, 250.0, torch.tensor(250), torch.tensor([250]), torch.tensor([250.0, 250.0])])
def test_timestep_is_a_scalar_or_one_per_sample(timestep):
    net, (sample, _, text) = editor().eval(), inputs()
    expected = net(sample, torch.tensor([250.0, 250.0]), text).sample
    assert torch.equal(net(sample, timestep, text).sample, expected)


def test_is_called_as_the_diffusers_unet():
    net, (sample, timestep, text) = editor(), inputs()
    (out,) = net(sample=sample, timestep=timestep, encoder_hidden_states=text, return_dict=False)
    assert torch.equal(out, net(sample, timestep, text).sample)


def test_depends_on_every_input_and_every_token():
    net, (sample, timestep, text) = editor(), inputs()
    base = net(sample, timestep, text).sample
    for other in ((sample, timestep + 100, text), (sample, timestep, text.flip(0)), (sample.flip(1), timestep, text)):
        assert not torch.allclose(base, net(*other).sample)
    for token in range(text.shape[1]):
        changed = text.clone()
        changed[:, token] += 1
        assert not torch.allclose(base, net(sample, timestep, changed).sample, atol=1e-7)


def test_global_brightness_reaches_every_pixel():
    net, (sample, *others) = editor(), inputs(height=64, width=64)
    before = net(sample, *others).sample
    sample[:, :, :, :8] += 0.5  # far outside the far side's receptive field
    difference = net(sample, *others).sample - before
    assert difference[:, :, :, -4:].abs().mean() > 1e-5


def test_gradient_flows_to_the_text_and_every_parameter():
    net, (sample, timestep, text) = editor(), inputs()
    net(sample, timestep, text.requires_grad_()).sample.pow(2).mean().backward()
    assert (text.grad.abs().sum((1, 2)) > 0).all()
    # a key's bias adds the same to all of a query's scores: softmax does not see it
    idle = {name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert idle <= {"embedding.key.bias"}


def test_gradient_checkpointing_changes_no_gradient():
    def gradients(net):
        net.train()(*inputs()).sample.pow(2).mean().backward()
        return [p.grad for p in net.parameters()]

    kept, recomputed = editor(), editor()
    recomputed.enable_gradient_checkpointing()
    assert recomputed.is_gradient_checkpointing
    for a, b in zip(gradients(kept), gradients(recomputed), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_save_and_load(tmp_path):
    net = editor().eval()
    net.save_pretrained(tmp_path)
    loaded = PixelEditor.from_pretrained(tmp_path)
    assert (loaded.config.in_channels, loaded.config.out_channels, loaded.config.cross_attention_dim) == (24, 12, 8)
    assert tuple(loaded.config.widths) == SMALL["widths"]
    assert torch.equal(loaded(*inputs()).sample, net(*inputs()).sample)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"3 widths need as many encoder_blocks"):
        editor(decoder_blocks=(1, 1, 1))


def test_learns_to_obey_the_instruction():
    """One text asks for brighter, the other for darker; 60 steps teach the difference."""
    net, (sample, timestep, text) = editor(awake=False), inputs()
    sample = sample[:1].expand(2, -1, -1, -1)  # one picture: only the text can tell the two apart
    wanted = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1).expand(2, 12, 16, 16)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(60):
        loss = (net(sample, timestep * 0, text).sample - wanted).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
    swapped = net(sample, timestep * 0, text.flip(0)).sample
    assert (swapped - wanted).pow(2).mean() > 0.3
