"""Drill 25: a file of every kind, through a build, against the table of verdicts in `zoo.py`."""

import io

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.cli.data import main
from tests.support.material import derain, rained, read_report, read_rows, save
from tests.support.zoo import KEPT, RGB, TURNS, zoo

ANIMALS = zoo()
TURNED = [f"turned{n}.jpg" for n in TURNS]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Every animal as the original of a pair, turned ones as the edited image too: lines of the report, stored rows."""
    root = tmp_path_factory.mktemp("zoo")
    for side, other, names in (("input", "target", ANIMALS), ("target", "input", TURNED)):
        for name in names:
            label = name if side == "input" else f"edited_{name}"
            save(root / "in" / other / f"{label}.png", rained(RGB, label))
            (root / "in" / side).mkdir(exist_ok=True)
            ending = name.rpartition(".")[2]
            (root / "in" / side / f"{label}.{ending}").write_bytes(ANIMALS[name].content)
    policy = ["on_bad=skip", "audit.lookalikes=false", "audit.shift=off"]
    assert main(["build", *derain(root / "in", root / "out", *policy)]) == 0
    return tuple({x["id"].rpartition("/")[2]: x for x in read(root / "out")} for read in (read_report, read_rows))


@pytest.mark.parametrize("name", ANIMALS)
def test_the_verdict_is_the_tables_and_the_picture_is_right(found, name):
    lines, rows = found
    animal = ANIMALS[name]
    if animal.shows is None:
        assert lines[name]["verdict"] == "rejected" and lines[name]["stage"] == "decode"
        assert animal.verdict in lines[name]["reason"]
        return
    assert lines[name]["verdict"] == "accepted", lines[name]
    stored = rows[name]["original_image"]["bytes"]
    assert lines[name]["original"]["kept"] is (animal.verdict == KEPT) is (stored == animal.content)
    assert error(stored, animal.shows) <= 2


@pytest.mark.parametrize("name", TURNED)
def test_either_side_of_a_pair_is_turned_upright(found, name):
    lines, rows = found
    label = f"edited_{name}"
    assert lines[label]["verdict"] == "accepted", lines[label]
    assert error(rows[label]["edited_image"]["bytes"], RGB) <= 2
    assert (lines[label]["width"], lines[label]["height"]) == (64, 48)


def error(stored: bytes, wanted: np.ndarray) -> float:
    """Mean absolute difference, of 255, from what a reader without our rules sees, as diffusers' script is one."""
    seen = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"), dtype=np.float64)
    return float(np.abs(seen - wanted).mean())
