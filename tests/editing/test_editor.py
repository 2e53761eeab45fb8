"""Many edits through one model: how they are divided, what they cost, and that a batch changes nothing."""

import functools
from types import SimpleNamespace

import pytest
import torch

from ip2p_lightning.config.build import build_module
from ip2p_lightning.diffusion.samplers import DiffusionSampler
from ip2p_lightning.editing.editor import BatchEditor, images_at_once, out_of_memory, ready
from ip2p_lightning.editing.timer import Clock
from ip2p_lightning.errors import UserError
from tests.support.models import batch_of, config_of, module_of, stirred

CPU = torch.device("cpu")
WORDS = ["remove the noise", "brighten it", "turn it into a cartoon", "wipe off the rain", "x"]


class Model:
    """Gives back what it is shown, in `steps` steps, if at most `room` images are shown at once."""

    device, sampler, autoencoder = CPU, None, SimpleNamespace(factor=8)

    def __init__(self, room=100, steps=4):
        self.room, self.steps, self.seen = room, steps, []

    def edit(self, x, prompts, seeds, sampler, clock, progress):
        self.seen.append(len(x))
        progress(1, self.steps)
        if len(x) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        for done in range(2, self.steps + 1):
            progress(done, self.steps)
        return x + torch.tensor(seeds).view(-1, 1, 1, 1) + len(prompts[0])


def images(count, side=8):
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(count, 3, side, side)


def readied(sd_folder, **settings):
    return ready(stirred(module_of("model=local", f"model.path={sd_folder}", "sampler.steps=3"), 0.01), **settings)


@pytest.fixture(scope="module")
def sd(sd_folder):
    return readied(sd_folder)


@pytest.mark.parametrize(("at_once", "parts"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5]), (None, [5])])
def test_images_are_divided_and_come_back_in_order(at_once, parts):
    model, told = Model(), []
    editor = BatchEditor(model, at_once=at_once, progress=told.append)
    found = editor.edit(images(5), ["ab"] * 5, [10, 20, 30, 40, 50])
    assert found[:, 0, 0, 0].tolist() == [12, 23, 34, 45, 56] and model.seen == parts
    assert sum(told) == pytest.approx(5) and editor.clock.images == 5


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_stay_small():
    model, told = Model(room=2), []
    editor = BatchEditor(model, progress=told.append)
    assert editor.edit(images(7), ["a"] * 7, [0] * 7)[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert model.seen == [7, 3, 1, 1, 1, 1, 1, 1, 1] and sum(told) == pytest.approx(7)


def test_one_image_that_does_not_fit_and_other_errors_are_told():
    with pytest.raises(RuntimeError, match="allocate"):
        BatchEditor(Model(room=0)).edit(images(2), ["a"] * 2, [0] * 2)
    model = Model()
    model.edit = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        BatchEditor(model).edit(images(2), ["a"] * 2, [0] * 2)


def test_only_missing_memory_counts_as_that():
    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 50)  # the allocator's own words
    assert out_of_memory(full.value) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    model = Model()

    def fail(x, *args):
        model.seen.append(len(x))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model.edit = fail
    with pytest.raises(RuntimeError, match="illegal"):
        BatchEditor(model).edit(images(4), ["a"] * 4, [0] * 4)
    assert model.seen == [4]


def test_more_small_images_go_together_than_large_ones(monkeypatch):
    assert [images_at_once(CPU, side**2) for side in (64, 128, 256, 512, 4096)] == [8, 8, 4, 1, 1]
    for gibibytes, expected in ((24, 24), (80, 32), (1, 1)):
        card = SimpleNamespace(total_memory=gibibytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert images_at_once(torch.device("cuda"), 256**2) == expected
    assert images_at_once(torch.device("cuda"), 4096**2) == 1


@pytest.mark.parametrize(("scales", "branches"), [((7.5, 1.5), 3), ((7.5, 1.0), 2), ((1.0, 1.0), 1)])
def test_branches_that_cancel_are_not_evaluated(sd, scales, branches):
    clock = Clock()
    editor = BatchEditor(sd, DiffusionSampler("ddim", 3, *scales), at_once=2, clock=clock)
    editor.edit(batch_of(5, 32).original, WORDS, [0] * 5)
    assert (clock.images, clock.evaluations) == (5, 5 * 3 * branches)
    assert set(clock.seconds) == {"encode", "sample", "decode"} and min(clock.seconds.values()) > 0
    assert clock.summary().startswith("5 images in ") and "sample" in clock.summary()


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc", "euler-a"])
def test_a_batch_of_different_photos_and_prompts_is_one_by_one(sd, scheduler):
    """The bound that editing.py states."""
    x, seeds, sampler = batch_of(5, 32).original, [3, 1, 4, 1, 5], DiffusionSampler(scheduler, 4)
    together, alone = (BatchEditor(sd, sampler, at_once).edit(x, WORDS, seeds) for at_once in (5, 1))
    assert (together - alone).abs().max() <= 1e-4 and together.std() > 0.05
    reverse = BatchEditor(sd, sampler, 5).edit(x.flip(0), WORDS[::-1], seeds[::-1]).flip(0)
    assert (reverse - alone).abs().max() <= 1e-4
    others = BatchEditor(sd, sampler, 1).edit(x[1:], WORDS[1:], seeds[1:])
    assert torch.equal(others, alone[1:])  # one at a time: to the last bit


def test_moments_are_taken_for_images(sd):
    x = batch_of(2, 32).original
    editor = BatchEditor(sd)
    assert torch.equal(editor.edit(sd.autoencoder.moments(x), WORDS[:2], [0, 1]), editor.edit(x, WORDS[:2], [0, 1]))


def test_half_precision_is_near(sd_folder, sd):
    x, half = batch_of(2, 32).original, readied(sd_folder, dtype="bfloat16")
    assert {p.dtype for p in half.unet.parameters()} == {half.autoencoder.model.dtype} == {torch.bfloat16}
    found, expected = (BatchEditor(m).edit(x, WORDS[:2], [0, 1]) for m in (half, sd))
    assert found.dtype == torch.float32 and 0 < (found - expected).abs().mean() < 0.05


def test_compiling_begins_with_the_repeated_blocks(sd_folder, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)
    models = {"BasicTransformerBlock": ["model=local", f"model.path={sd_folder}"], "EditBlock": ["model=tiny"]}
    for expected, words in models.items():
        module = ready(module_of(*words), compile=True)
        assert {type(part).__name__ for part in module.unet.modules() if part._compiled_call_impl} == {expected}
    whole = module_of("model=tiny")
    whole.unet._repeated_blocks = ()
    assert ready(whole, compile=True).unet._compiled_call_impl


@pytest.mark.parametrize("how", ["off", "regional", "full"])
def test_edits_are_compiled_where_asked_also_of_a_run_that_trained_compiled(monkeypatch, how):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    counts = []
    for asked in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        module = build_module(config_of("model=tiny", f"model.compile={how}"))
        BatchEditor(ready(module, compile=asked)).edit(batch_of(1, 16).original, WORDS[:1], [0])
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == 0 and counts[1] > 0


@pytest.mark.slow
def test_a_compiled_model_gives_the_same(sd_folder, sd):
    x, compiled = batch_of(2, 32).original, readied(sd_folder, compile=True)
    found, expected = (BatchEditor(m).edit(x, WORDS[:2], [0, 1]) for m in (compiled, sd))
    assert (found - expected).abs().max() <= 1e-4


def test_what_is_not_there_is_refused(sd):
    cases = [
        ("cuda:9", "float32", "cuda:9"),
        ("toaster", "float32", "toaster"),
        ("cpu", "float16", "float16 needs a GPU"),
    ]
    for device, dtype, word in cases:
        with pytest.raises(UserError, match=word):
            ready(sd, device=device, dtype=dtype)
