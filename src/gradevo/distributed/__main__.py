"""torchrun, which after Ctrl-C ends as any command does, without a traceback of its own."""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

if __name__ == "__main__":
    try:
        main()
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
