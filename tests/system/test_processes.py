"""Nothing of a killed run lives on, also where the kill came before the child could ask to be told of it."""

import os
import signal
import subprocess
import sys

import pytest

from ip2p_lightning.system.processes import die_with_parent
from ip2p_lightning.training.distributed.environment import LEADER
from tests.support.processes import in_a_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")


@pytest.fixture
def ended():
    """Pid of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_child_goes_on_under_a_living_ancestor():
    for ancestor in (os.getpid(), os.getppid()):
        assert in_a_fork(lambda ancestor=ancestor: die_with_parent(ancestor=ancestor)) == 0


def test_a_child_whose_ancestor_is_gone_already_ends_at_once(ended):
    assert in_a_fork(lambda: die_with_parent(ancestor=ended)) == -signal.SIGKILL
    assert in_a_fork(lambda: die_with_parent(signal.SIGTERM, ancestor=ended)) == -signal.SIGTERM


def test_a_rank_whose_supervisor_was_killed_while_it_imported_ends_before_it_trains(ended, tmp_path):
    words = [sys.executable, "-m", "ip2p_lightning.cli.train", f"hydra.run.dir={tmp_path}/run"]
    rank = os.environ | {"TORCHELASTIC_RUN_ID": "1", LEADER: str(ended), "RANK": "1"}
    assert subprocess.run(words, env=rank, timeout=120).returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())
