"""`python -m cnnbp`, the same as `cnnbp`."""

import sys

from cnnbp.cli import main

if __name__ == "__main__":
    sys.exit(main())
