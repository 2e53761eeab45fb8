"""One rank of a group: trains the run in a folder. Started by ``launch.supervise``, never by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ip2p_lightning.config.build import build_data
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.errors import UserError, exit_code, root
from ip2p_lightning.runs.folder import read_config
from ip2p_lightning.system.processes import die_with_parent
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.distributed import launch
from ip2p_lightning.training.fit import fit
from ip2p_lightning.training.resolve import resolved


def main() -> None:
    """``python -m ip2p_lightning.training.worker RUN CHECKPOINT SUPERVISOR``: a folder, a path or nothing, a pid."""
    die_with_parent(ancestor=int(sys.argv[3]))
    folder, checkpoint = Path(sys.argv[1]), sys.argv[2] or None
    request = StopRequest()
    request.listen()
    code = exit_code(lambda: _work(folder, checkpoint, request))
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # a rank that failed must not wait for the others in a destructor


def _work(folder: Path, checkpoint: str | None, request: StopRequest) -> int:
    try:
        config = read_config(folder)
        check(config, TrainConfig)
        data = build_data(config)
        data.setup("fit")
        launch.report(folder, fit(resolved(config, folder), folder, data, checkpoint, request))
    except BaseException as error:
        launch.report(folder, -1, error)
        if isinstance(known := root(error), UserError):
            return known.code  # the supervisor says it, once for all ranks
        raise
    return 0


if __name__ == "__main__":
    main()
