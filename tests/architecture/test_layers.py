"""Imports go one way: read from the syntax tree, late imports included, for every file of the package."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ip2p_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))
# Room -> what it may import: rooms, or a dotted name that opens that one module. A room of a higher layer comes later.
MAY = {
    "errors": "",
    "rng": "",
    "system": "errors",
    "config": "errors rng system",
    "diffusion": "errors",
    "networks": "errors rng",
    "data": "errors rng system",
    "curation": "errors rng system config data",
    "runs": "errors system config data.bad_pairs",
    "evaluation": "errors rng system config runs data networks",
    "training": """errors rng system config networks diffusion runs evaluation.metrics
        data.example data.prompts data.bad_pairs data.contact_sheet data.latent_cache""",
    "editing": """errors system config diffusion networks runs training.module evaluation.score_table
        data.image data.contact_sheet data.sources.manifest_reader""",
    "sweeps": "errors rng system config runs",
    "cli": """errors rng system config diffusion networks data curation runs evaluation training editing sweeps
        cli.parser cli.paraphrase""",
    "": "system.compat",
}
DATA_ONLY = {"builtin"}  # folders without code
HYDRA = ("config", "sweeps", "cli")
DERIVED = {"networks.pixel_unet", "training.ema"}  # their classes derive from diffusers'
LATE = {"diffusers", "transformers", "datasets", "timm", "peft"}
WITHOUT_TORCH = ("system", "config", "cli")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def room_of(path: Path) -> str:
    return name_of(path).partition(".")[0]


def imported(nodes) -> set[str]:
    """Full names that import statements among `nodes` bind; a name's module may be all of it but the last word."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    return imported(ast.walk(ast.parse(path.read_text())))


def at_module_level(path: Path) -> set[str]:
    return imported(ast.parse(path.read_text()).body)


def ours(names: set[str]) -> set[str]:
    return {name.removeprefix("ip2p_lightning.") for name in names if name.startswith("ip2p_lightning.")}


def libraries(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_what_its_row_names(path):
    room = room_of(path)
    assert room in MAY, f"{room} is in no row of the table: a new room needs one"
    own = {room} if room not in ("cli", "") else set()
    allowed = own | set(MAY[room].split())
    wrong = {i for i in ours(imports(path)) if not any(i == a or i.startswith(f"{a}.") for a in allowed)}
    assert not wrong


def test_the_table_has_no_circle():
    above: dict[str, int] = {}
    for room, row in MAY.items():
        if room:
            above[room] = len(above)
            assert all(above[name.partition(".")[0]] <= above[room] for name in row.split()), room


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_hydra_stays_with_those_who_compose(path):
    if room_of(path) not in HYDRA:
        assert not libraries(imports(path)) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_class_takes_a_dictconfig(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.arg) and node.annotation is not None:
            assert "DictConfig" not in ast.unparse(node.annotation), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_large_libraries_are_imported_late(path):
    found = libraries(at_module_level(path))
    assert name_of(path) in DERIVED or not found & LATE
    assert "torch" not in found or room_of(path) not in WITHOUT_TORCH


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_parts_of_training_do_not_import_what_uses_them(path):
    parts = ("training.callbacks", "training.memory", "training.distributed")
    if name_of(path).startswith(parts):
        inside = {i for i in ours(imports(path)) if i.startswith("training.")}
        assert not {i for i in inside if not i.startswith(parts)}


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
    assert not libraries(imports(path)) & {"pickle", "dill", "joblib"}


def test_there_is_no_drawer_of_odds_and_ends():
    assert not [p for p in FILES if p.stem in ("utils", "util", "common", "helpers", "misc")]


def test_the_top_and_each_folder_stay_small():
    folders = {p for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.*")) and p.name != "__pycache__"}
    assert len([p for p in FILES if p.parent == PACKAGE]) <= 3
    assert len(folders) <= 14
    assert {p.name for p in folders} <= {room for room in MAY if room} | DATA_ONLY | {"conf"}
    assert max(Counter(p.parent for p in FILES).values()) <= 18
