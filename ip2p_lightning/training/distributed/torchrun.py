"""``torchrun``, silent about ranks that ended: each left its outcome, and ``launch.supervise`` words that."""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    logging.disable(logging.ERROR)  # a page about each rank that ended, and about each that was ended for it
    try:
        main()
    except ChildFailedError:
        sys.exit(1)
