"""Drills 32 and 33: the same bytes whatever happens, and wherever."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from ip2p_lightning.cli.data import main
from tests.curation.conftest import command
from tests.support.material import derain, pairs_folder, tree


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pairs_folder(tmp_path_factory.mktemp("source") / "in", 300)  # two chunks


def words(source: Path, out: Path) -> list[str]:
    return ["build", *derain(source, out, "shard_bytes=1500000")]


@pytest.fixture(scope="module")
def wanted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("wanted") / "out"
    assert main(words(source, out)) == 0
    assert len(list((out / "data").iterdir())) >= 4  # several shards
    return tree(out)


def shuffled(source: Path, copy: Path) -> Path:
    """The same files, created in another order: the file system lists them in another order."""
    files = [path for path in source.rglob("*") if path.is_file()]
    random.Random(3).shuffle(files)
    for path in files:
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copy


def test_order_workers_folder_locale_and_time_zone_do_not_matter(source, wanted, tmp_path):
    assert main([*words(shuffled(source, tmp_path / "copy"), tmp_path / "a"), "build.workers=4"]) == 0
    assert tree(tmp_path / "a") == wanted
    place = {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    line = [*words(Path(os.path.relpath(source, tmp_path)), Path("b")), "build.workers=1"]
    process = command(*line, folder=tmp_path, PYTHONPATH=str(Path(__file__).parents[2]), **place)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert tree(tmp_path / "b") == wanted


def test_shards_by_several_jobs_merge_to_the_same_dataset(source, wanted, tmp_path, capsys):
    out = tmp_path / "out"
    for shard in (1, 0):
        assert main([*words(source, out), f"build.shard={shard}", "build.shards=2"]) == 0
        assert main(["verify", str(out)]) == 2 and "not finished" in capsys.readouterr().err
        assert not [path for path in out.iterdir() if path.name != ".work"]
        assert shard == 0 or main(["merge", str(out)]) == 2  # not before both are done
    path = out / ".work" / "chunk-000001.arrow"
    content = path.read_bytes()
    for at in (content.index(b"\x89PNG") + 60, content.index(b"p00") + 3, content.index(b"derain/input/p00") + 17):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        capsys.readouterr()
        assert main(["merge", str(out)]) == 6  # a flipped bit does not become part of a dataset
        assert path.name in capsys.readouterr().err and not (out / "data").exists()
    path.write_bytes(content)
    assert main(["merge", str(out)]) == 0
    assert tree(out) == wanted


def killed_build(line: list[str], delay: float) -> bool:
    """Build in a forked child (no time for imports), kill it and its workers after `delay`; whether it was in time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(main(line))
    end = time.monotonic() + delay
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)  # the workers must end by themselves
    os.waitpid(child, 0)
    return True


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_builds_continue_to_the_same_bytes(source, wanted, tmp_path, kills):
    out, rng, done = tmp_path / "out", random.Random(kills), 0
    while done < kills:
        late = done % 2  # half of the kills fall where the dataset is put together
        line = [*words(source, out), f"build.workers={done % 3}"]
        if late and not (out / ".work" / "plan.json").is_file():
            main([*line, "build.shards=1000000", "build.shard=999999"])
        before = killed_build(line, rng.uniform(0.05, 1.2))
        assert before or (out / "dataset.json").is_file()
        if not before:
            assert tree(out) == wanted
            shutil.rmtree(out)
        elif not (out / "dataset.json").is_file() and (out / "data").is_dir():
            shards = {k.removeprefix("data/"): v for k, v in wanted.items() if k.startswith("data/")}
            assert tree(out / "data") == shards  # "data" is renamed into place as a whole
        done += before
    assert main(words(source, out)) == 0
    print(f"drill 32: {kills} kills")
    assert tree(out) == wanted


def test_a_finished_dataset_is_left_alone_and_other_settings_are_refused(source, wanted, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(words(source, out)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(words(source, out)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main([*words(source, out), "seed=1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_shards_as_jobs_of_a_launcher(source, wanted, tmp_path):
    sweep = ["-m", "build.shard=0,1", "build.shards=2", "hydra/launcher=local"]
    process = command("build", *sweep, *words(source, tmp_path / "out")[1:])
    said, _ = process.communicate()
    assert process.returncode == 0 and said.count("complete  build.shard=") == 2, said
    assert main(["merge", str(tmp_path / "out")]) == 0
    assert tree(tmp_path / "out") == wanted
