"""How similar two pictures are."""

from __future__ import annotations

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def similarity(picture: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """PSNR in decibels and SSIM of RGB pictures [H, W, 3] of values from 0 to 255. SSIM has the
    Gaussian window of Wang et al. (2004), and is the mean of the three channels."""
    a, b = picture.numpy(), reference.numpy()
    ssim = structural_similarity(
        a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(peak_signal_noise_ratio(b, a, data_range=255)), float(ssim)
