"""What a start imports, each case in a process of its own: imports leave marks."""

import re
import subprocess
import sys
from pathlib import Path

import ip2p_lightning


def test_a_command_answers_signals_before_torch_is_there_and_torchvision_is_mended_when_it_comes():
    _works(
        "import sys, ip2p_lightning.cli.train\n"
        "assert not {'torch', 'omegaconf', 'hydra', 'numpy', 'pandas'} & set(sys.modules)\n"
        "before = len(sys.meta_path)\n"
        "import torchvision.transforms\n"
        "assert 'torch' in sys.modules and len(sys.meta_path) == before - 1"
    )


def test_no_entry_of_sys_modules_is_replaced():
    changed = re.compile(r"sys\.modules(\[[^]]+\] = |\.(pop|update|setdefault)\()|del sys\.modules")
    assert [p for p in Path(ip2p_lightning.__file__).parent.rglob("*.py") if changed.search(p.read_text())] == []


COLLECTED = """
import gc, sys, types, weakref
from ip2p_lightning.system.imports import MANY, gc_paused
class Node: pass
def cycle():
    node = Node(); node.itself = node
    return weakref.ref(node)
for many in (True, False):
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            dead = cycle()
        assert not gc.isenabled() and dead() is not None
        kept = Node(); kept.itself = kept; later = weakref.ref(kept)
        sys.modules.update({f'made.{n}': types.ModuleType('made') for n in range(MANY * many)})
    assert gc.isenabled()
    if many:
        assert dead() is None and gc.get_freeze_count() > MANY
    del kept
    gc.collect()
    assert (later() is not None) == many
"""


def test_what_imports_make_is_exempt_from_collections_and_nothing_else_is():
    _works(COLLECTED)


def _works(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
