"""How close an edit is to its ground truth."""

from ip2p_lightning.metrics.fidelity import luma, psnr, ssim, to_eight_bits

__all__ = ["luma", "psnr", "ssim", "to_eight_bits"]
