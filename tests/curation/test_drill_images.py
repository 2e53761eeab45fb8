"""Drills 23 and 24: damaged images and decompression bombs."""

import subprocess
import sys
import time

import pytest

from ip2p_lightning.cli.data import main
from tests.support.damage import bombs, mutated_folder
from tests.support.material import derain, pairs_folder, read_report, tree

_PEAK = """
import re, sys
from pathlib import Path
from ip2p_lightning.cli.data import main
code = main(sys.argv[1:])
status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's own size
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
sys.exit(code)
"""


@pytest.mark.parametrize("count", [70, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_images_are_accepted_or_named(tmp_path, count):
    source = mutated_folder(tmp_path / "in", count)
    start = time.monotonic()
    for out, workers in (("one", 1), ("four", 4), ("again", 0)):
        assert main(["build", *derain(source, tmp_path / out, "on_bad=skip", f"build.workers={workers}")]) == 0
    print(f"drill 23: {count} images built three times in {time.monotonic() - start:.1f} s")
    lines = read_report(tmp_path / "one")
    rejected = [line for line in lines if line["verdict"] == "rejected"]
    assert len({line["id"] for line in lines}) == len(lines) == count
    assert all(line["path"] and line["stage"] and line["reason"] for line in rejected)
    assert count * 0.3 < len(rejected) < count
    print(f"drill 23: accepted {count - len(rejected)}, rejected {len(rejected)}")
    assert tree(tmp_path / "one") == tree(tmp_path / "four") == tree(tmp_path / "again")


def test_one_bad_image_fails_the_build_unless_it_is_to_be_skipped(tmp_path, build):
    source = pairs_folder(tmp_path / "in", 12)
    (source / "input" / "p00003.png").write_bytes(b"<html>404</html>")
    words = derain(source, tmp_path / "out")
    code, line = build(*words)
    assert code == 3 and "input/p00003.png: not an image of a known kind" in line and "1 of 12 rejected" in line
    assert not (tmp_path / "out" / "data").exists()
    code, line = build(*words, "on_bad=skip")
    assert code == 0 and "1 rejected" in line
    assert [x["path"] for x in read_report(tmp_path / "out") if x["verdict"] == "rejected"] == ["input/p00003.png"]


def test_bombs_are_refused_in_little_memory_and_time(tmp_path):
    pairs_folder(tmp_path / "in", 6)
    count = bombs(tmp_path / "in")
    start = time.monotonic()
    line = [sys.executable, "-c", _PEAK, "build", *derain(tmp_path / "in", tmp_path / "out", "on_bad=skip")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    wall, peak = time.monotonic() - start, int(done.stdout.split("peak ")[1])
    print(f"drill 24: {count} bombs, {wall:.1f} s with start-up, peak {peak} MiB")
    rejected = {line["path"]: line["reason"] for line in read_report(tmp_path / "out") if line["verdict"] == "rejected"}
    assert len(rejected) == count and "megapixels" in rejected["input/mp95.png"]
    assert peak < 600
