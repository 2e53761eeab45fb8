"""Our loss and our pixels against diffusers', on a tiny random checkpoint in Stable Diffusion's layout."""

from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ip2p_lightning.diffusion.noise_schedule import checkpoint_schedule
from ip2p_lightning.diffusion.objective import DiffusionObjective
from ip2p_lightning.diffusion.samplers import DiffusionSampler
from ip2p_lightning.networks.autoencoder import KLAutoencoder
from ip2p_lightning.networks.conditioning import Conditioner
from ip2p_lightning.networks.unet import apply_unet, load_unet
from tests.support.sd_checkpoint import stock_pipeline

P = 0.05
SCHEDULERS = {"ddim": "DDIMScheduler", "euler-a": "EulerAncestralDiscreteScheduler"}
SCHEDULERS |= {"dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
PROMPTS = ["derain the image", "Cartoonize the natural image", "make it brighter", "y " * 90, "x"]  # one too long
U = torch.tensor([0.01, 0.07, 0.12, 0.5, 0.05])  # text, both, image, none, and the border: both


class PlainCLIP:
    """The prompts' states straight from transformers."""

    def __init__(self, path):
        self.model = CLIPTextModel.from_pretrained(path, subfolder="text_encoder").eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer")

    @torch.no_grad()
    def encode(self, prompts):
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return self.model(ids.input_ids)[0]


@pytest.fixture(scope="module")
def text(checkpoints):
    return PlainCLIP(checkpoints[8])  # the same weights in both


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(3)
    images = torch.rand(2, 5, 3, 32, 32, generator=g) * 2 - 1
    return *images, *torch.randn(2, 5, 4, 4, 4, generator=g), torch.tensor([0, 17, 500, 999, 731])


def script_unet(path, channels):
    """``train_instruct_pix2pix.py``, from loading the UNet to its new conv_in (which keeps a random bias)."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(path, subfolder="unet")
    if channels == 8:
        return unet
    unet.register_to_config(in_channels=8)
    with torch.no_grad():
        new = nn.Conv2d(8, unet.conv_in.out_channels, unet.conv_in.kernel_size, unet.conv_in.stride, 1)
        new.weight.zero_()
        new.weight[:, :4, :, :].copy_(unet.conv_in.weight)
        unet.conv_in = new
    return unet


@torch.no_grad()
def script_loss(path, unet, text, batch, prediction):
    """The body of its training loop, with the random draws handed in and the mean taken per sample."""
    original, edited, noise, posterior_noise, t = batch
    vae = diffusers.AutoencoderKL.from_pretrained(path, subfolder="vae")
    scheduler = diffusers.DDPMScheduler.from_pretrained(path, subfolder="scheduler", prediction_type=prediction)
    posterior = vae.encode(edited).latent_dist
    latents = (posterior.mean + posterior.std * posterior_noise) * vae.config.scaling_factor
    noisy_latents = scheduler.add_noise(latents, noise, t)
    encoder_hidden_states = text.encode(PROMPTS)
    original_image_embeds = vae.encode(original).latent_dist.mode()

    prompt_mask = (U < 2 * P).reshape(-1, 1, 1)
    encoder_hidden_states = torch.where(prompt_mask, text.encode([""]), encoder_hidden_states)
    image_mask = 1 - (P <= U).float() * (3 * P > U).float()
    original_image_embeds = image_mask.reshape(-1, 1, 1, 1) * original_image_embeds

    concatenated_noisy_latents = torch.cat([noisy_latents, original_image_embeds], dim=1)
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, t)
    model_pred = unet(concatenated_noisy_latents, t, encoder_hidden_states, return_dict=False)[0]
    return ((model_pred.float() - target.float()) ** 2).mean((1, 2, 3))


@torch.no_grad()
def our_loss(path, unet, text, batch, objective):
    original, edited, noise, posterior_noise, t = batch
    vae, conditioner = KLAutoencoder(path), Conditioner(text, p=P)
    z_edited = vae.sample(vae.moments(edited), posterior_noise)
    condition = conditioner.drop(conditioner.encode(vae.mode(vae.moments(original)), PROMPTS), U)
    return objective.loss(partial(apply_unet, unet), z_edited, condition, t, noise, None)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("channels", "copy_bias"), [(4, True), (4, False), (8, True)])
def test_loss_is_that_of_the_script(checkpoints, text, batch, channels, copy_bias, prediction):
    path = checkpoints[channels]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        theirs = script_unet(path, channels)
        torch.manual_seed(11)
        ours = load_unet(path, copy_bias=copy_bias)
    if copy_bias and channels == 4:  # upstream's lost bias (diffusers#4960), mended in the reference
        base = diffusers.UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        theirs.conv_in.bias.data.copy_(base.conv_in.bias.data)
    expected = script_loss(path, theirs.eval(), text, batch, prediction)
    found = our_loss(path, ours, text, batch, DiffusionObjective(prediction))
    assert found.shape == (5,)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def photos(n):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 64, 48, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


def as_tensor(images):
    pixels = np.stack([np.asarray(image, np.float32) / 255 for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) * 2 - 1


def our_edit(path, text, images, prompts, seeds, sampler, objective=None):
    vae, conditioner, unet = KLAutoencoder(path), Conditioner(text), load_unet(path)
    condition = conditioner.encode(vae.mode(vae.moments(as_tensor(images))), prompts)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    net, objective = partial(apply_unet, unet), objective or DiffusionObjective()
    null, z_original = conditioner.null(condition), condition.image * vae.scaling_factor
    return vae.decode(sampler.sample(net, objective, condition, null, z_original, generators))


@pytest.mark.parametrize("from_checkpoint", [True, False])
@pytest.mark.parametrize(("name", "cls"), SCHEDULERS.items())
def test_pixels_are_those_of_the_pipeline(checkpoints, text, name, cls, from_checkpoint):
    path, images, prompts = checkpoints[8], photos(2), PROMPTS[:2]
    args = {"num_inference_steps": 6, "guidance_scale": 7.0, "image_guidance_scale": 1.5, "output_type": "pt"}
    seeds = [torch.Generator().manual_seed(s) for s in (1, 2)]
    expected = stock_pipeline(path, cls)(prompts, images, generator=seeds, **args).images
    schedule = checkpoint_schedule(path) if from_checkpoint else None
    sampler = DiffusionSampler(name, steps=6, text_scale=7.0, image_scale=1.5, checkpoint=schedule)
    found = (our_edit(path, text, images, prompts, (1, 2), sampler) / 2 + 0.5).clamp(0, 1)
    assert found.shape == (2, 3, 64, 48) and expected.std() > 0.05  # not all clamped away
    assert (found - expected).abs().max() <= 1e-5
    bytes_apart = (found * 255).round().int() - (expected * 255).round().int()
    assert bytes_apart.abs().max() <= 1


def test_one_seed_one_image_as_the_pipeline_is_used(checkpoints, text):
    path, images = checkpoints[8], photos(1)
    seed = torch.Generator().manual_seed(7)
    args = {"num_inference_steps": 5, "guidance_scale": 5.0, "image_guidance_scale": 1.0}
    expected = stock_pipeline(path)(PROMPTS[0], images[0], generator=seed, output_type="np", **args).images
    found = our_edit(path, text, images, PROMPTS[:1], (7,), DiffusionSampler("ddim", 5, 5.0, 1.0))
    found = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() <= 1e-5  # at s_I = 1 we compute two branches, the pipeline three


def test_velocity_is_that_of_the_scheduler(checkpoints, batch):
    *_, noise, z, t = batch
    scheduler = diffusers.DDPMScheduler.from_pretrained(checkpoints[4], subfolder="scheduler")
    objective = DiffusionObjective("v_prediction")
    assert torch.equal(objective.target(z, noise, t), scheduler.get_velocity(z, noise, t))
    assert torch.equal(objective.schedule.add_noise(z, noise, t), scheduler.add_noise(z, noise, t))


def test_zero_terminal_snr_matches_a_scheduler_set_up_for_it(checkpoints, text):
    path, images, pipe = checkpoints[8], photos(1), stock_pipeline(checkpoints[8])
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **settings)
    g, args = torch.Generator().manual_seed(7), {"num_inference_steps": 4, "guidance_scale": 3.0}
    expected = pipe(PROMPTS[0], images[0], generator=g, output_type="pt", image_guidance_scale=1.5, **args).images
    objective = DiffusionObjective("v_prediction", zero_terminal_snr=True)
    found = our_edit(path, text, images, PROMPTS[:1], (7,), DiffusionSampler("ddim", 4, 3.0, 1.5), objective)
    assert ((found / 2 + 0.5).clamp(0, 1) - expected).abs().max() <= 1e-5
