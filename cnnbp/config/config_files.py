"""Where the files of the config groups are."""

from pathlib import Path


def config_directory() -> Path:
    """The folder of config groups: `cnnbp/conf` in an installed package, `conf` in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
