"""Where the modules of a user's own parts are found."""

import os
import sys


def add_current_folder(folder: str | None = None) -> None:
    """Let modules of a folder be imported, by default of the one that the command is started in.

    It comes last, so that no file there takes the place of an installed package. The console script
    `cnnbp` and a launcher's processes lack it; `python -m` has it first already.
    """
    folder = folder or os.getcwd()
    # Python takes "" for the current folder, which may change
    if folder not in sys.path:
        sys.path.append(folder)
