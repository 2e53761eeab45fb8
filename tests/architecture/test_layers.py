"""Imports go one way: read from the syntax tree, late imports included, for every file of the package."""

import ast
from collections import Counter
from pathlib import Path

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
        data.image data.contact_sheet data.sources.manifest_reader data.sources.image_files""",
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


TREES = {path: ast.parse(path.read_text()) for path in FILES}


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


IMPORTS = {path: imported(ast.walk(tree)) for path, tree in TREES.items()}
OURS = {
    path: {name.removeprefix("ip2p_lightning.") for name in names if name.startswith("ip2p_lightning.")}
    for path, names in IMPORTS.items()
}


def libraries(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_a_room_imports_only_what_its_row_names():
    assert {room_of(path) for path in FILES} <= MAY.keys(), "a new room needs a row in the table"
    for path in FILES:
        room = room_of(path)
        allowed = {*MAY[room].split(), *([room] if room not in ("cli", "") else [])}
        assert not {i for i in OURS[path] if not any(i == a or i.startswith(f"{a}.") for a in allowed)}, path


def test_the_table_has_no_circle():
    above: dict[str, int] = {}
    for room, row in MAY.items():
        if room:
            above[room] = len(above)
            assert all(above[name.partition(".")[0]] <= above[room] for name in row.split()), room


def test_hydra_stays_with_those_who_compose():
    others = [path for path in FILES if room_of(path) not in HYDRA]
    assert not [path for path in others if libraries(IMPORTS[path]) & {"hydra", "omegaconf"}]


def test_large_libraries_are_imported_late():
    for path in FILES:
        found = libraries(imported(TREES[path].body))
        assert name_of(path) in DERIVED or not found & LATE, path
        assert "torch" not in found or room_of(path) not in WITHOUT_TORCH, path


def test_parts_of_training_do_not_import_what_uses_them():
    parts = ("training.callbacks", "training.memory", "training.distributed")
    for path in FILES:
        if name_of(path).startswith(parts):
            assert not {i for i in OURS[path] if i.startswith("training.") and not i.startswith(parts)}, path


def test_nothing_evaluates_or_unpickles_and_no_class_takes_a_dictconfig():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            place = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, place
            if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code", "allow_pickle"):
                assert not (isinstance(node.value, ast.Constant) and node.value.value is True), place
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant) and node.value.value is True, place
            if isinstance(node, ast.arg) and node.annotation is not None:
                assert "DictConfig" not in ast.unparse(node.annotation), place
        assert not libraries(IMPORTS[path]) & {"pickle", "dill", "joblib"}, path


def test_there_is_no_drawer_of_odds_and_ends():
    assert not [p for p in FILES if p.stem in ("utils", "util", "common", "helpers", "misc")]


def test_the_top_and_each_folder_stay_small():
    folders = {p for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob("*.*")) and p.name != "__pycache__"}
    assert len([p for p in FILES if p.parent == PACKAGE]) <= 3
    assert len(folders) <= 14
    assert {p.name for p in folders} <= {room for room in MAY if room} | DATA_ONLY | {"conf"}
    assert max(Counter(p.parent for p in FILES).values()) <= 18
