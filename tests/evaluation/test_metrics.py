"""SSIM and PSNR against scikit-image."""

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ip2p_lightning.evaluation.metrics import psnr, ssim

WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2, "data_range": 255}


@pytest.mark.parametrize("size", [(96, 128), (32, 32), (11, 16)])
@pytest.mark.parametrize("sigma", [5, 20, 80])
def test_scores_are_those_of_scikit_image(size, sigma):
    photo = data.astronaut()[100 : 100 + size[0], 150 : 150 + size[1]]
    noise = np.random.default_rng(0).normal(0, sigma, photo.shape)
    noisy = np.clip(photo + noise, 0, 255).round().astype(np.uint8)
    ours = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (noisy, photo)]
    assert ssim(*ours).item() == pytest.approx(structural_similarity(noisy, photo, **WANG), abs=1e-5)
    assert psnr(*ours).item() == pytest.approx(peak_signal_noise_ratio(photo, noisy), abs=1e-4)


def test_each_image_of_a_batch_has_a_score_of_its_own():
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    assert ssim(images, images).tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert (ssim(images, images.flip(0))[1] > 0.99) and (ssim(images, images.flip(0))[[0, 2]] < 0.5).all()
