"""Drill 27: manifests with one thing wrong in each, read for a build and for training."""

import json
from collections import Counter

import pytest

from ip2p_lightning.curation.origins.manifest import ManifestOrigin
from ip2p_lightning.data.sources.manifest import Manifest
from ip2p_lightning.errors import UserError
from ip2p_lightning.rng import numpy_rng
from tests.support.manifest_faults import BUILD_ONLY, DUPLICATES, ROWS, Fault, fault, images


def listed(path) -> tuple[int, list[str]]:
    """How many lines a build takes, and what it says about the others. Anything but a `UserError` is a crash."""
    try:
        found = ManifestOrigin(str(path)).list()
    except UserError as error:
        return 0, [str(error)]
    return len(found.candidates), [rejection.reason for rejection in found.rejected]


def trained(path) -> tuple[int, list[str]]:
    """The same of a training run, which refuses the manifest at the first fault."""
    source = Manifest(str(path))
    try:
        return sum(len(source.pairs(split)) for split in ("train", "val", "test")), []
    except UserError as error:
        return 0, [str(error)]


def judged(wrong: Fault, accepted: int, errors: list[str]) -> str:
    """Empty if the fault, and nothing else, was named with its line and field."""
    if wrong.line is None:
        return "" if accepted == ROWS and not errors else f"harmless, but {errors}"
    names = [e for e in errors if f"line {wrong.line}" in e and wrong.field in e and "\n" not in e]
    return "" if len(names) == len(errors) == 1 else f"line {wrong.line} {wrong.field}: {[e[:300] for e in errors]}"


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_manifests_fault_is_named_with_line_and_field(tmp_path, count):
    root, failed, kinds = images(tmp_path), [], Counter()
    for number in range(count):
        wrong = fault(number, numpy_rng("manifest", count, number))
        path = root / f"m{wrong.ending}"
        path.write_bytes(wrong.content)
        kinds[wrong.kind] += 1
        for reader in (listed, trained):
            if reader is trained and wrong.kind in BUILD_ONLY:
                continue
            if reader is listed and wrong.kind == "NUL in a prompt":
                continue  # a build refuses that pair when it comes to it
            answer = judged(wrong, *reader(path))
            failed += [f"{number} {wrong.kind} {wrong.ending} {reader.__name__}: {answer}"] if answer else []
    doubles = sum(kinds[kind] for kind in DUPLICATES)
    print(f"drill 27: {count} manifests of {len(kinds)} kinds, {doubles} with duplicates; {len(failed)} wrong answers")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("number", range(3, 49, 5))
def test_the_command_says_it_in_one_line_and_leaves_nothing(tmp_path, build, number):
    wrong = fault(number, numpy_rng("command", number))
    path = images(tmp_path / "in") / f"m{wrong.ending}"
    path.write_bytes(wrong.content)
    code, said = build("task=derain", "source=manifest", f"source.path={path}", f"out={tmp_path / 'out'}")
    if wrong.line is None:
        assert code == 0
        assert json.loads((tmp_path / "out" / "dataset.json").read_text())["accepted"] == ROWS
        return
    assert (
        said.startswith("error: ")
        and code == (7 if wrong.kind == "path outside" else 3)
        and f"line {wrong.line}" in said
        and wrong.field in said
    )
    assert not (tmp_path / "out" / "data").exists()
