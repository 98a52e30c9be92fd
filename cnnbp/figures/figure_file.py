"""One figure in one file, with matplotlib where it is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnbp.errors import UserError
from cnnbp.files import replacing


@contextmanager
def figure(path: str | Path, width: float = 8, height: float = 5) -> Iterator[Any]:
    """Yield matplotlib axes, and save them as `path`.

    Args:
        width, height: in inches.

    Raises:
        UserError: matplotlib is not installed, or cannot write files of this kind.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError(f"{path}: pictures need matplotlib; pip install matplotlib") from None
    picture = pyplot.figure(figsize=(width, height), layout="constrained")
    try:
        yield picture.subplots()
        with replacing(path, "wb") as file:
            picture.savefig(file, format=Path(path).suffix.lstrip(".") or "png", dpi=120)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    finally:
        pyplot.close(picture)
