"""FSDP2 on two ranks (gloo, on the CPU): the losses of ddp, a checkpoint that any command opens, and exact resume."""

import multiprocessing
import os
import socket

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.pixel_unet import PixelEditor
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs import trained_run as run_opening
from ip2p_lightning.training import fsdp
from tests.support.models import config_of
from tests.support.processes import PRELOAD, SMALL, digest
from tests.support.ranks import GROUP, WORDS, ended, step
from tests.support.trained import logged

SHARDED = ["trainer=fsdp2", *WORDS[1:]]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A run of two ranks whose validation has three examples: two for one rank, one for the other."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    codes, said = ended(step(folder, words=SHARDED))
    assert codes == [0, 0], said
    return folder


def test_losses_and_scores_are_those_of_ddp(sharded, tmp_path):
    codes, said = ended(step(tmp_path / "run", "model.channels_last=false"))
    assert codes == [0, 0], said
    for key in ("train/loss", "train/grad_norm", "val/psnr", "val/psnr/denoise"):
        found = logged(sharded, key)
        assert found and found == pytest.approx(logged(tmp_path / "run", key), rel=1e-5, abs=1e-6)
    a, b = (run_opening.open_run(folder).module.state_dict() for folder in (sharded, tmp_path / "run"))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in b)


def test_a_killed_rank_is_resumed_exactly(sharded, tmp_path):
    folder = tmp_path / "run"
    codes, said = ended(step(folder, "fault=kill@step=3,rank=1", words=SHARDED))
    assert codes[1] == -9 and codes[0] not in (0, None), said
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(folder)] == [2]
    codes, said = ended(step(folder, words=SHARDED))
    assert codes == [0, 0], said
    assert digest(folder) == digest(sharded)
    assert logged(folder, "val/psnr") == logged(sharded, "val/psnr")


def test_a_gradient_that_is_not_finite_is_skipped_by_both_ranks(tmp_path):
    codes, said = ended(step(tmp_path / "run", "fault=nan@step=1,rank=1", "val_every=0", words=SHARDED))
    assert codes == [0, 0], said
    assert logged(tmp_path / "run", "train/skipped_steps")[4] == 1


def test_a_sharded_stable_diffusion_unet_is_exported_like_any_other(sd_folder, tmp_path):
    from ip2p_lightning.cli.export import main

    words = ["trainer=fsdp2", *GROUP[1:], "model=local", f"model.path={sd_folder}", "task=denoise", *SMALL[1:]]
    words += ["trainer.max_steps=2", "val_every=0", "optimizer.lr=1e-2", "timeout=60"]
    codes, said = ended(step(tmp_path / "run", words=words))
    assert codes == [0, 0], said
    stored = checkpoint.load(checkpoint.newest_valid(tmp_path / "run"))
    assert all(type(value) is torch.Tensor for value in stored["state_dict"].values())
    assert main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0


def work_as(rank, port, answers):
    """One rank that shards a network; what it finds."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = PixelEditor(widths=(8, 16), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding_dim=8)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    fsdp.shard(network, init_device_mesh("cpu", (2,)))
    network(torch.zeros(1, 24, 8, 8), 0, torch.zeros(1, 3, 64))  # together
    parts = [fsdp.local(p) for p in network.parameters()]
    found = {"held": sum(part.numel() for part in parts), "all": sum(p.numel() for p in before.values())}
    copies = {name: fsdp.like(before[name] + 1, p) for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        fsdp.exchange(parameter, copies[name])
    with fsdp.gathered(network):
        found["exchanged"] = all(torch.equal(p, before[name] + 1) for name, p in network.named_parameters())
        for _ in range(rank):  # alone: the other does not come along
            network(torch.zeros(1, 24, 8, 8), 0, torch.zeros(1, 3, 64))
    found["kept"] = all(torch.equal(fsdp.whole(copy), before[name]) for name, copy in copies.items())
    answers.put(found)
    torch.distributed.destroy_process_group()


def test_each_rank_holds_half_and_may_use_a_gathered_network_by_itself():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    answers = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [context.Process(target=work_as, args=(rank, port, answers)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    found = [answers.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join(60)
    assert sum(f["held"] for f in found) == found[0]["all"]
    assert max(f["held"] for f in found) < 0.6 * found[0]["all"]
    assert all(f["exchanged"] and f["kept"] for f in found)


@pytest.mark.parametrize("word", ["model.channels_last=true", "model.compile=full", "trainer.precision=bf16-true"])
def test_what_sharding_does_not_go_with_is_refused_by_both_names(word):
    with pytest.raises(UserError, match=rf"trainer\.strategy=fsdp2 and {word.partition('=')[0]}="):
        config_of("trainer=fsdp2", "model.ema=null", "model.balance_tasks=false", word)
