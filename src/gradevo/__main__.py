"""`python -m gradevo`, which is how torchrun starts the command.

Python would then look for modules in the working folder first, where a `random.py` may lie.
"""

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    sys.path.append(sys.path.pop(0))  # last, since this package itself may be there

from gradevo.cli import main

if __name__ == "__main__":
    main()
