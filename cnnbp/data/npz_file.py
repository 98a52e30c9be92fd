"""A data set of one's own in one .npz file."""

from pathlib import Path

import numpy as np

from cnnbp.data.array_data import from_arrays
from cnnbp.data.datasets import DataSet, Images
from cnnbp.errors import UserError


def read_npz(root: Path) -> DataSet:
    """Read the data set of an .npz file.

    The file holds train_images, train_labels, test_images and test_labels as `from_arrays` takes
    them, and perhaps class_names, one text a class.

    Raises:
        UserError: names the file, and the array that is wrong.
    """
    arrays = _arrays(root)
    for key in Images._fields:
        if key not in arrays:
            raise UserError(
                f"{root}: has no array {key}; must have {', '.join(Images._fields)}, "
                f"but has {', '.join(arrays) or 'none'}"
            )
    images = [arrays[key] for key in Images._fields]
    class_names = None
    if "class_names" in arrays:
        class_names = [str(name) for name in arrays["class_names"].ravel()]
    try:
        return from_arrays(
            *images,
            class_names=class_names,
            name=root.stem,
            choice="npz",
            description=f"the images of {root.name}",
        )
    except UserError as error:
        raise UserError(f"{root}: {error}") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # NumPy would leave a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise UserError(f"data.root={path}: no such file") from None
    except Exception as error:
        # zipfile, zlib and NumPy raise nearly anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: is not a whole .npz file ({reason})") from None
