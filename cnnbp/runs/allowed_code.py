"""Which code a run directory may run: the project's own, the user's own, and what the user trusts.

A config names classes and functions, and building it calls them. The directory may be somebody
else's, so that nothing is imported before it is clear whose it is.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

# hydra.utils.get_object, which also logs what it does not find
from hydra._internal.utils import _locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnbp.errors import UserError
from cnnbp.runs.run_record import CONFIG, RunRecord

# what the model and the data of a run may be built from
OURS = (
    "cnnbp.model.network.",
    "cnnbp.data.augment.",
    "cnnbp.data.datamodule.",
    "cnnbp.data.npz_file.",
    "cnnbp.data.picture_folder.",
    "cnnbp.training.classifier.",
    "cnnbp.training.muon.",
    "cnnbp.training.schedules.",
    "torch.optim.",
)
# of these, beside OURS, subclasses of nn.Module alone
COMPONENTS = ("cnnbp.", "torch.nn.", "torchmetrics.classification.")
# packages that only the two above speak for
KNOWN_PACKAGES = {"cnnbp", "hydra_plugins", "torch", "torchmetrics", *sys.stdlib_module_names}
# folders that hold what others have written
INSTALLED = {"site-packages", "dist-packages"}

# packages that the person at the keyboard allows, by --trust; never read from a run
trusted: set[str] = set()


def refuse_unknown_code(run: RunRecord, part: DictConfig, is_built: bool = True) -> None:
    """Raise a UserError where building a part would call code that is not allowed.

    Allowed are components of this project and of torch, the user's own code, and packages in
    `trusted`. A module is the user's own where its file lies below the current directory, but
    neither among installed packages nor in the folder of the current directory that holds the run.

    Args:
        is_built: False where the part is only looked at; then other people's packages may be
            named, but a function of Python's, or one of ours that is no component, is still a
            sign of a forged config.
    """
    for target in _targets(OmegaConf.to_container(part, resolve=True)):
        name = str(target)
        package = name.partition(".")[0]
        is_known = package in KNOWN_PACKAGES
        if not is_built and not is_known:
            continue
        if is_known:
            is_allowed = _is_ours(name)
        else:
            is_allowed = package in trusted or _is_own_name(package, run.path)
            is_allowed = is_allowed and _is_defined_in_allowed_module(name, run.path)
        if not is_allowed:
            config = run.path / CONFIG
            raise UserError(
                f"{config}: would run {name}, which is not allowed here; {_remedy(package)}"
            )


def _is_ours(name: str) -> bool:
    """Whether a name is in `OURS`, or a component."""
    if not name.startswith(OURS + COMPONENTS):
        return False
    part = _get(name)
    # by its name, and by where it was written: a module also has what it imports
    module = f"{getattr(part, '__module__', '')}."
    if name.startswith(OURS) and module.startswith(OURS):
        return True
    is_component = isinstance(part, type) and issubclass(part, nn.Module)
    return is_component and module.startswith(COMPONENTS)


def _is_own_name(package: str, run: Path) -> bool:
    """Whether a top-level module is the user's own, without running any of it."""
    if package == "__main__":
        # of a notebook, which has no file, or of a script
        return _is_own_module(sys.modules["__main__"], run)
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    # a folder without __init__.py may be spread over several places
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    return bool(places) and all(_is_own_place(Path(place), run) for place in places)


def _is_defined_in_allowed_module(name: str, run: Path) -> bool:
    """Whether an object was written where its name says: a module also has what it imports."""
    part = _get(name)
    home = getattr(part, "__module__", None)
    if not isinstance(home, str) or home not in sys.modules:
        return False
    return home.partition(".")[0] in trusted or _is_own_module(sys.modules[home], run)


def _is_own_module(module: ModuleType, run: Path) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__ == "__main__"
    return _is_own_place(Path(file), run)


def _is_own_place(path: Path, run: Path) -> bool:
    """Whether a file or folder lies below the current directory, apart from the run's folder."""
    here, path, run = Path.cwd().resolve(), path.resolve(), run.resolve()
    if not path.is_relative_to(here) or INSTALLED & set(path.parts):
        return False
    # who sends a run may send modules beside it
    if here.is_relative_to(run):
        return False
    if run.is_relative_to(here):
        return not path.is_relative_to(here / run.relative_to(here).parts[0])
    return True


def _get(name: str) -> Any:
    """The object of a name; None where there is none."""
    try:
        return _locate(name)
    except Exception:
        return None


def _remedy(package: str) -> str:
    """What to do where a package is not allowed."""
    if package in KNOWN_PACKAGES:
        return "no run of this project is made of it"
    try:
        is_there = find_spec(package) is not None
    except (ImportError, ValueError):
        is_there = False
    if not is_there:
        return f"there is no module {package} here: start in the folder that holds it"
    return f"if you know its code, give --trust {package}"


def _targets(node: Any) -> Iterator[Any]:
    """Every `_target_` at or below a node of plain data."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)
