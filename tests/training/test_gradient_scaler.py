"""``trainer.precision=16-mixed``: the clipping sees gradients without the scale, and finding a scale is no failure.

On a CPU, with torch's GradScaler for it in Lightning's plugin; training itself allows fp16 on a GPU only.
"""

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from ip2p_lightning.config import build
from ip2p_lightning.errors import NonFiniteError
from tests.support.models import bare_trainer, batch_of, config_of

pytestmark = pytest.mark.parametrize("fused", (True, False))


class Overflows(torch.amp.GradScaler):
    """Finds an infinity in the gradients of some steps, as a scale that is too large leaves it there."""

    def __init__(self, steps=(), scale=2.0**16):
        super().__init__("cpu", init_scale=scale)
        self.steps, self.seen = steps, 0

    def unscale_(self, optimizer):
        if self.seen in self.steps:
            optimizer.param_groups[0]["params"][0].grad.flatten()[0] = torch.inf
        self.seen += 1
        super().unscale_(optimizer)


def fit(scaler, fused, steps=3, batches=None, max_skips=3):
    """A module trained in 16 bits (in 32 without a scaler), the gradient norms of its steps and its weights before."""
    torch.manual_seed(0)
    words = ("task=denoise", "prompts=name", f"optimizer.fused={str(fused).lower()}", f"max_skips={max_skips}")
    module = build.build_module(config_of(*words))
    before, norms = [p.detach().clone() for p in module.parameters()], []
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)] if scaler else []
    trainer = bare_trainer(max_steps=steps, gradient_clip_val=1.0, plugins=plugins)
    module.on_train_batch_end = lambda *_: norms.append(float(module.grad_norm))
    trainer.fit(module, DataLoader(batches or [batch_of(2)] * steps, batch_size=None))
    return module, norms, before


def test_gradients_are_clipped_without_their_scale(fused):
    _, whole, _ = fit(None, fused)
    module, half, before = fit(Overflows(), fused)
    assert half == pytest.approx(whole, rel=0.02)
    assert max(float((a - b).abs().max()) for a, b in zip(before, module.parameters(), strict=True)) > 1e-5


def test_a_scale_too_large_is_halved_and_not_counted(fused):
    scaler = Overflows(steps=range(6))
    module, norms, _ = fit(scaler, fused, steps=8, max_skips=0)
    assert module.guard.skipped == 0 and scaler.get_scale() == 2.0**10
    assert [n == n and n != float("inf") for n in norms] == [False] * 6 + [True] * 2
    assert module.ema.optimization_step == 2 and all(torch.isfinite(p).all() for p in module.parameters())


def test_an_overflow_that_no_scale_ends_is_counted(fused):
    with pytest.raises(NonFiniteError, match=r"step 6: gradient norm .* after 4 steps"):
        fit(Overflows(steps=range(99), scale=8.0), fused, steps=20)


def test_a_loss_that_is_not_finite_is_counted_at_any_scale(fused):
    poisoned = batch_of(2)._replace(edited=torch.full((2, 3, 16, 16), torch.nan))
    with pytest.raises(NonFiniteError, match=r"step 2: .* after 2 steps .*loss=nan"):
        fit(Overflows(), fused, steps=6, max_skips=1, batches=[batch_of(2), poisoned, poisoned, batch_of(2)])
