"""One figure in one file, with matplotlib where it is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnbp.errors import UserError
from cnnbp.files import replacing


@contextmanager
def figure(path: str | Path, width: float = 8, height: float = 5, **subplots: Any) -> Iterator[Any]:
    """Yield matplotlib axes and save them as `path`; sizes in inches, `subplots` as for pyplot.subplots.

    Raises:
        UserError: matplotlib is not installed, or cannot write files of this kind.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError(f"{path}: pictures need matplotlib; pip install matplotlib") from None
    picture, axes = pyplot.subplots(figsize=(width, height), layout="constrained", **subplots)
    try:
        yield axes
        with replacing(path, "wb") as file:
            picture.savefig(file, format=Path(path).suffix.lstrip(".") or "png", dpi=120)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    finally:
        pyplot.close(picture)
