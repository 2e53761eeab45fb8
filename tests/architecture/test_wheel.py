"""The wheel: it carries the configs and what is built in, and its commands work from anywhere."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the checkout, without fetching anything."""
    out = tmp_path_factory.mktemp("wheel")
    words = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_carries_the_configs_and_what_is_built_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, least in (("conf", 40), ("experiments", 4)):
        ours = {f"ip2p_lightning/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*.yaml")}
        assert ours <= names and len(ours) >= least
    assert all(name.endswith(".yaml") for name in names if "/experiments/" in name)
    builtin = {str(p.relative_to(ROOT)) for p in (ROOT / "ip2p_lightning" / "builtin").rglob("*") if p.is_file()}
    assert builtin <= names and len(builtin) >= 3
    assert not {n for n in names if n.split("/")[0] in ("tests", "benchmarks", "runs", "experiments")}
    metadata = next(n for n in names if n.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(metadata).count(b"\nip2p-") >= 7


@pytest.mark.slow
def test_its_commands_work_elsewhere(wheel, tmp_path):
    place = tmp_path / "site"
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(place), str(wheel)]
    subprocess.run([sys.executable, *words], check=True)
    line = [sys.executable, "-m", "ip2p_lightning.cli.train", "--cfg", "job", "task=derain"]
    elsewhere = {"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(place)}}
    done = subprocess.run(line, **elsewhere)
    assert done.returncode == 0 and "DerainDataModule" in done.stdout, done.stderr
    line[4:] = ["job", "-cn", "first_light"]
    done = subprocess.run(line, **elsewhere)
    assert done.returncode == 0 and "max_steps: 600" in done.stdout, done.stderr
    where = [sys.executable, "-c", "import ip2p_lightning.config.compose as c; print(c.CONF)"]
    assert subprocess.run(where, **elsewhere).stdout.strip() == str(place / "ip2p_lightning" / "conf")
