"""What a start imports, each case in a process of its own: imports leave marks."""

import importlib.util
import subprocess
import sys

DEFERRED = """
import sys
import ip2p_lightning
import lightning.pytorch
assert not {"scipy.signal", "torchmetrics.functional", "transformers", "matplotlib"} & set(sys.modules)
import torchmetrics
from lightning.pytorch import LightningModule
base, version = torchmetrics.Metric, torchmetrics.__version__
"""


PLOTS = [
    "import torch; from torchmetrics import SumMetric; assert SumMetric().plot(torch.tensor(1.0))",
    "import torch, matplotlib.pyplot as p; from torchmetrics import MetricCollection as C, SumMetric, MeanMetric\n"
    "m = C([SumMetric(), MeanMetric()]); m.update(torch.tensor(1.0))\n"
    "assert m.plot(together=True, ax=p.gca())\n"
    "try:\n    m.plot(together=True, ax=1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
]
USES = [
    "from torchmetrics.functional.image import peak_signal_noise_ratio",
    "assert issubclass(torchmetrics.SumMetric, base)",
    "from torchmetrics import MetricCollection as C, SumMetric; C([SumMetric()])",
    "import pickle; from torchmetrics.image import PeakSignalNoiseRatio as P; pickle.loads(pickle.dumps(P(1.0)))",
    "import timm",
    "from torchmetrics.utilities.plot import plot_confusion_matrix; from torchmetrics.classification import *",
    *(PLOTS if importlib.util.find_spec("matplotlib") else []),
]
CHECK = """
import torchmetrics.metric
assert torchmetrics.Metric is base is torchmetrics.metric.Metric
assert version == torchmetrics.__version__ != ""
"""
EACH = """
import os
for use in USES:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, use
    else:
        code = 1
        try:
            exec(use + CHECK)
            code = 0
        finally:
            os._exit(code)
"""


def test_a_command_answers_signals_before_torch_is_there_and_torchvision_is_mended_when_it_comes():
    _works(
        "import sys, ip2p_lightning.cli.train\n"
        "assert not {'torch', 'omegaconf', 'hydra', 'numpy'} & set(sys.modules)\n"
        "before = len(sys.meta_path)\n"
        "import torchvision.transforms\n"
        "assert 'torch' in sys.modules and len(sys.meta_path) == before - 1"
    )


def test_lightning_comes_without_the_metrics_and_they_are_there_when_asked_for():
    _works(f"{DEFERRED}\nUSES, CHECK = {USES!r}, {CHECK!r}\n{EACH}")


def test_a_torchmetrics_that_is_laid_out_otherwise_is_imported_as_ever():
    _works(
        "import ip2p_lightning, sys\n"
        "sys.modules['torchmetrics.collections'] = None\n"  # importing it fails
        "import torchmetrics\n"
        "asked = torchmetrics.Metric\n"
        "try:\n    torchmetrics.MetricCollection\n"
        "except ImportError:\n    pass\n"  # the package's own error, not ours
        "else:\n    assert torchmetrics.functional\n"
        "assert type(torchmetrics).__name__ == 'module'"
    )


def test_statistics_come_with_the_scheduler_that_asks_for_them():
    _works(
        "import sys\n"
        "from ip2p_lightning.system.imports import quiet_libraries\n"
        "quiet_libraries()\n"
        "from diffusers import DPMSolverMultistepScheduler as S, UNet2DConditionModel\n"
        "assert 'scipy.stats._stats_py' not in sys.modules\n"
        "s = S(use_beta_sigmas=True, algorithm_type='sde-dpmsolver++')\n"
        "s.set_timesteps(4)\n"
        "assert s.sigmas[0] > s.sigmas[1] > s.sigmas[2] > s.sigmas[3]\n"
        "import scipy.stats, scipy\n"
        "from scipy.stats import beta, norm\n"
        "assert scipy.stats is sys.modules['scipy.stats'] and 0.5 == norm.cdf(0) == beta.cdf(0.5, 2, 2)\n"
        "assert type(scipy.stats).__name__ == 'module' and scipy.stats.distributions.norm is norm"
    )


COLLECTED = """
import gc, sys, types, weakref
from ip2p_lightning.system.imports import MANY, uncollected
class Node: pass
def cycle():
    node = Node(); node.itself = node
    return weakref.ref(node)
for many in (True, False):
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
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
