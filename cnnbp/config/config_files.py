"""Where the files of the config groups are."""

from pathlib import Path

from cnnbp.errors import UserError

# given to commands other than train.py, where Hydra reads --config-dir itself
own_folders: list[Path] = []


def config_directory() -> Path:
    """The folder of config groups: `cnnbp/conf` in an installed package, `conf` in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def add_config_folder(folder: str | Path | None) -> None:
    """Also look for config groups in a folder of the user's.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir {folder}: no such folder")
    path = Path(folder).resolve()
    # a notebook may give it again and again
    if path not in own_folders:
        own_folders.append(path)
