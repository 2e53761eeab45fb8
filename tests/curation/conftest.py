"""The command, run in this process or in another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def build(capsys):
    """``ip2p-data build`` in this process: exit code, and the last line it wrote."""

    def run(*words: object) -> tuple[int, str]:
        from ip2p_lightning.cli.data import main

        capsys.readouterr()
        code = main(["build", *map(str, words)])
        out, err = capsys.readouterr()
        return code, (err if code else out).strip().splitlines()[-1]

    return run


def command(*words: object, folder: Path | None = None, **environment: str) -> subprocess.Popen:
    """``ip2p-data`` in a process of its own."""
    line = [sys.executable, "-m", "ip2p_lightning.cli.data", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, **pipes)
