"""Imports go one way: read from the syntax tree, so that a wall is a failing test and not a habit."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ip2p_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))
ENTRY_POINTS = {"train", "data_cli", "cache", "evaluate", "edit", "export", "report", "inspect_cli", "app"}
# The noun of a file -> the nouns of ours it may import. Leaves may be imported by all.
LEAVES = {"errors", "randomness", "storage", "seals", "weights", "allocator", "orphans", "records", "digests"}
LEAVES |= {"_torchvision", "_torchmetrics", "_deferred", "collector"}
MAY = {
    "diffusion": set(),
    "data": set(),
    "networks": set(),
    "teachers": {"data.image", "data.degrade", "commands"},
    "metrics": set(),
    "pictures": set(),
    "module": {"diffusion", "networks", "metrics", "data.example", "training", "compiling", "editing"},
    "editing": {"networks.layout"},
    "photo_batches": {"editing", "photos", "data.image"},
    "scoring": {"scores", "data.example", "metrics", "config"},
    "training": {"guard", "averaging", "sharding"},
    "guard": set(),
    "averaging": {"sharding"},
    "sharding": set(),
    "compiling": set(),
    "caching": {"data"},
    "callbacks": {"pictures", "module", "meters"},
    "meters": set(),
    "checkpoint": {"sidecar"},
    "sidecar": set(),
    "schema": set(),
    "config": {"schema"},
    "ranges": set(),
    "rules": set(),
    "step_rules": {"rules"},
    "refusal": {"config"},
}
HYDRA_HOMES = {"config", "runs", "refusal", "launchers", "sweepers", "plugins", "conf"} | ENTRY_POINTS


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def allowed(target: str, noun: str) -> bool:
    room = target.split(".")[0]
    return room in LEAVES | {noun} or any(target == m or target.startswith(f"{m}.") for m in MAY[noun])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_lies_below_it(path):
    noun = name_of(path).split(".")[0]
    if noun not in MAY:
        return
    ours = {i.removeprefix("ip2p_lightning.") for i in imports(path) if i.startswith("ip2p_lightning.")}
    assert not {i for i in ours if not allowed(i, noun)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_hydra_stays_with_the_entry_points(path):
    if name_of(path).split(".")[0] not in HYDRA_HOMES:
        assert not {i for i in imports(path) if i.split(".")[0] in ("hydra", "omegaconf")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nobody_imports_an_entry_point(path):
    entered = {f"ip2p_lightning.{name}" for name in ENTRY_POINTS}
    assert not {i for i in imports(path) if any(i == e or i.startswith(f"{e}.") for e in entered)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_evaluates_or_unpickles(path):
    banned = {"eval", "exec", "compile", "__import__"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in banned, f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code", "allow_pickle"):
            assert not (isinstance(node.value, ast.Constant) and node.value.value is True), (
                f"{path}:{node.value.lineno}"
            )
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            assert isinstance(node.value, ast.Constant) and node.value.value is True
    assert not {i for i in imports(path) if i.split(".")[0] in ("pickle", "dill", "joblib")}


def test_there_is_no_drawer_of_odds_and_ends():
    assert not [p for p in FILES if p.stem in ("utils", "util", "common", "helpers", "misc")]
