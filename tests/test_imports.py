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
    "import torch; from torchmetrics import MetricCollection as C, SumMetric, MeanMetric; import matplotlib.pyplot as p\n"
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


def _works(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
