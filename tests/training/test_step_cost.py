"""A step's cost: what is counted, masked and profiled."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ip2p_lightning.runs.metrics_log import last_metrics
from ip2p_lightning.training.callbacks import throughput
from ip2p_lightning.training.callbacks.profiler import WARM_UP, Profile, breakdown
from ip2p_lightning.training.callbacks.throughput import count_next_pass, flops_of_shape, named_peak, passes
from ip2p_lightning.training.gradient_guard import Guard
from tests.support.trained import train_run


@pytest.fixture(scope="module")
def unet(sd_folder):
    return UNet2DConditionModel.from_pretrained(sd_folder, subfolder="unet")


def test_flops_are_those_of_a_real_pass(unet):
    x, t, text = torch.randn(2, 4, 8, 8), torch.zeros(2), torch.randn(2, 77, 32)
    plain, found = unet(x, t, encoder_hidden_states=text).sample, []
    # torch's counter does not know the CPU's own attention kernel, and would leave it out
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        unet(x, t, encoder_hidden_states=text)
    count_next_pass(unet, found.append)
    for _ in range(2):  # the second pass is not counted
        assert torch.equal(unet(x, t, encoder_hidden_states=text).sample, plain)
    assert found == [counter.get_total_flops() / 2] and flops_of_shape(unet, 8, 77, 32) == found[0]


def test_a_pass_that_fails_is_not_counted_and_leaves_nothing_behind(unet):
    found, text = [], torch.randn(1, 77, 32)
    count_next_pass(unet, found.append)
    with pytest.raises(RuntimeError):
        unet(torch.randn(1, 5, 8, 8), torch.zeros(1), encoder_hidden_states=text)
    unet(torch.randn(1, 4, 8, 8), torch.zeros(1), encoder_hidden_states=text)
    assert found == [] and not unet._forward_hooks and not unet._forward_pre_hooks


def test_weights_that_are_not_trained_cost_no_gradient(unet):
    assert passes(unet) == 3
    unet.requires_grad_(False)
    assert passes(unet) == 2
    unet.requires_grad_(True)


def test_peaks_are_found_by_the_longest_name_of_whole_words(monkeypatch):
    for name, peak in (("NVIDIA A10G", 70), ("NVIDIA L40S", 362), ("NVIDIA H100 80GB HBM3", 989), ("Tesla V9", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert throughput.peak_tflops(torch.device("cuda")) == peak
    assert throughput.peak_tflops(torch.device("cpu")) is None and min(throughput.PEAKS.values()) > 0
    peaks = {"NVIDIA A100-SXM4-80GB": 312, "NVIDIA A40": 150, "NVIDIA RTX 6000 Ada Generation": 364}
    peaks |= {"NVIDIA H100 NVL": 835, "NVIDIA H200": 989, "NVIDIA GeForce RTX 4090": 165}
    others = ["RTX A1000", "RTX A3000", "RTX A4000", "GeForce RTX 4090 Laptop GPU", "A100-SXM4-40GB MIG 1g.5gb"]
    peaks |= {f"NVIDIA {name}": None for name in others}
    assert {name: named_peak(name) for name in peaks} == peaks


def test_a_masked_step_changes_nothing_and_is_counted_one_step_later():
    """The mechanism of GPU runs, on the CPU's fused AdamW: it obeys `found_inf` too."""
    weight = nn.Parameter(torch.ones(4))
    optimizer, guard = torch.optim.AdamW([weight], lr=0.1, fused=True), Guard()
    for gradient, bad_before in ((1.0, False), (float("nan"), False), (1.0, True), (1.0, False)):
        weight.grad = torch.full((4,), gradient)
        before = weight.detach().clone()
        norm = nn.utils.clip_grad_norm_([weight], 1.0)
        assert guard.masked(norm, optimizer) == bad_before
        optimizer.step()
        assert torch.equal(weight, before) == (gradient != 1.0)
    assert guard.skipped == 1 and optimizer.state[weight]["step"] == 3
    assert torch.isfinite(weight).all() and torch.isfinite(optimizer.state[weight]["exp_avg"]).all()


def test_a_profiled_run_leaves_a_trace_a_page_and_meters(tmp_path):
    words = ["trainer=profile", "trainer.max_steps=4", "callbacks.profiler.steps=1", "val_every=0", "log_every=1"]
    run = train_run(tmp_path / "run", "model=tiny", "task=denoise", *words)
    assert json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]
    page = (run / "profile" / "breakdown.md").read_text()
    assert page.startswith("# 1 optimizer steps") and "| operation | share |" in page
    last = last_metrics(run)
    assert last["train/tflops_per_s"] > 0 and 0 <= last["train/data_wait"] < 1 and "train/mfu" not in last


def profiled(folder, steps):
    """A profile of four steps beside so many steps on rank 0."""
    callback = Profile(folder, steps=4)
    both = SimpleNamespace(global_step=0, is_global_zero=True, device=torch.device("cpu"))  # trainer and module
    callback.on_train_start(both, both)
    for both.global_step in range(1, steps + 1):
        callback.on_train_batch_end(both, both)
    callback.on_train_end(both, both)


def test_a_profile_divides_by_the_steps_it_traced_and_says_so_where_there_were_none(tmp_path):
    with pytest.warns(UserWarning, match=r"nothing was traced.*trainer.max_steps=6 or more"):
        profiled(tmp_path, WARM_UP)
    assert not list(tmp_path.iterdir())
    profiled(tmp_path, WARM_UP + 3)
    assert (tmp_path / "profile" / "breakdown.md").read_text().startswith("# 3 optimizer steps")


def test_a_gpus_time_is_that_of_its_kernels_once():
    def event(key, device, ms, annotation=False):
        times = {"self_device_time_total": 1000 * ms, "self_cpu_time_total": 0, "count": 2}
        return SimpleNamespace(key=key, device_type=device, is_user_annotation=annotation, **times)

    events = [event("aten::conv2d", DeviceType.CPU, 4), event("conv_kernel", DeviceType.CUDA, 4)]
    page = breakdown([*events, event("step", DeviceType.CUDA, 9, annotation=True)], "cuda", 2)
    assert page.startswith("# 2 optimizer steps: 0.002 s of cuda time each")
    assert "| `conv_kernel` | 100.0% | 2.0 | 1 |" in page and "aten::conv2d" not in page and "`step`" not in page
