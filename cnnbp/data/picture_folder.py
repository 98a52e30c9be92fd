"""A data set of one's own in a folder, with one folder of pictures a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnbp.data.array_cache import cached, fingerprint_of
from cnnbp.data.array_data import from_arrays
from cnnbp.data.datasets import DataSet
from cnnbp.data.picture_files import is_grey, open_picture, read_image
from cnnbp.errors import UserError

# that systems leave beside pictures, as they do files whose names begin with a dot
LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")


class Listed(NamedTuple):
    """The files of a split, and their labels."""

    paths: list[Path]
    labels: list[int]


def read_folder(
    root: Path, image_size: int | None = None, test_share: float = 0.2, split_seed: int = 1
) -> DataSet:
    """Read the data set of a folder.

    The folder holds one folder of pictures a class, or `train` and `test` with such folders. Where
    no picture has colours, the images have one channel, else three. Training images are shuffled
    once, so that the last ones, which validation holds out, are of all classes.

    Args:
        image_size: height and width in pixels that all pictures are cropped and scaled to; without
            it they must be squares of one size.
        test_share: of the pictures of each class; of no effect where there is a folder `test`.
        split_seed: of the split and of the order.

    Raises:
        UserError: names the file or the folder that is wrong.
    """
    class_names, train, test = _list_pictures(root, test_share, split_seed)
    paths = [*train.paths, *test.paths]
    images = cached(
        root, fingerprint_of(paths, image_size), lambda: _decode(paths, image_size, root)
    )
    name = root.resolve().name
    try:
        return from_arrays(
            images[: len(train.paths)],
            np.array(train.labels),
            images[len(train.paths) :],
            np.array(test.labels),
            class_names=class_names,
            name=name,
            choice="folder",
            description=f"the pictures of the folder {name}",
        )
    except UserError as error:
        raise UserError(f"{root}: {error}") from None


def _list_pictures(
    root: Path, test_share: float, split_seed: int
) -> tuple[list[str], Listed, Listed]:
    """The classes, the training pictures in their order, and the test pictures."""
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    if (root / "train").is_dir() and (root / "test").is_dir():
        by_class, test_by_class = (
            _pictures_by_class(root / "train"),
            _pictures_by_class(root / "test"),
        )
        _check_same_classes(root, list(by_class), list(test_by_class))
    else:
        by_class, test_by_class = _split(_pictures_by_class(root), test_share, split_seed)
    train, test = _listed(by_class), _listed(test_by_class)
    order = np.random.default_rng(split_seed).permutation(len(train.paths))
    shuffled = Listed([train.paths[i] for i in order], [train.labels[i] for i in order])
    return [folder.name for folder in by_class], shuffled, test


def _pictures_by_class(root: Path) -> dict[Path, list[Path]]:
    """The files of each class by its folder, in the order of their names."""
    folders = []
    for entry in _entries(root):
        if entry.is_dir():
            folders.append(entry)
        elif entry.suffix.lower() in Image.registered_extensions():
            raise UserError(f"{entry}: lies in no folder of a class; move it into one")
    if len(folders) < 2:
        found = ", ".join(folder.name for folder in folders) or "none"
        raise UserError(
            f"{root}: must have a folder of pictures for each of two or more classes; has {found}"
        )
    by_class = {}
    for folder in folders:
        files = _entries(folder)
        for file in files:
            if file.is_dir():
                raise UserError(f"{file}: a folder in that of a class, which holds pictures alone")
        if not files:
            raise UserError(f"{folder}: holds no pictures; remove it, or add some")
        by_class[folder] = files
    return by_class


def _entries(folder: Path) -> list[Path]:
    """What a person has put into a folder, in the order of the names."""
    entries = []
    for entry in sorted(folder.iterdir()):
        if not entry.name.startswith(".") and entry.name not in LEFT_BY_SYSTEMS:
            entries.append(entry)
    return entries


def _check_same_classes(root: Path, train: Sequence[Path], test: Sequence[Path]) -> None:
    names, test_names = [path.name for path in train], [path.name for path in test]
    if names != test_names:
        raise UserError(
            f"{root / 'test'}: has the classes {', '.join(test_names)}; "
            f"must be those of {root / 'train'}, {', '.join(names)}"
        )


def _split(
    by_class: dict[Path, list[Path]], test_share: float, split_seed: int
) -> tuple[dict[Path, list[Path]], dict[Path, list[Path]]]:
    """Take a share of each class for the test set."""
    train, test = {}, {}
    for label, (folder, files) in enumerate(by_class.items()):
        if len(files) < 2:
            raise UserError(f"{folder}: holds one picture; must hold two, one of them for the test")
        count = min(max(1, round(test_share * len(files))), len(files) - 1)
        order = np.random.default_rng([split_seed, label]).permutation(len(files))
        test[folder] = [files[place] for place in sorted(order[:count])]
        train[folder] = [files[place] for place in sorted(order[count:])]
    return train, test


def _listed(by_class: dict[Path, list[Path]]) -> Listed:
    listed = Listed([], [])
    for label, files in enumerate(by_class.values()):
        listed.paths.extend(files)
        listed.labels.extend([label] * len(files))
    return listed


def _decode(paths: Sequence[Path], image_size: int | None, root: Path) -> np.ndarray:
    """Read pictures as images, uint8 (N, S, S) or (N, 3, S, S)."""
    # without their pixels, which takes little time and finds most mistakes
    heads = [open_picture(path, with_pixels=False) for path in paths]
    side = image_size or _common_size(paths, heads)
    channels = 1 if all(map(is_grey, heads)) else 3
    shape = (side, side) if channels == 1 else (channels, side, side)
    images = np.empty((len(paths), *shape), np.uint8)
    bar = tqdm(paths, desc=f"reading {root}", unit=" pictures", leave=False, disable=None)
    for place, path in enumerate(bar):
        images[place] = read_image(path, channels, side)
    return images


def _common_size(paths: Sequence[Path], heads: Sequence[Image.Image]) -> int:
    """The height and width of all pictures."""
    first = heads[0].size
    for path, head in zip(paths, heads, strict=True):
        width, height = head.size
        remedy = "give data.dataset.image_size=N to crop and scale all pictures to N x N"
        if width != height:
            raise UserError(f"{path}: {width} x {height} pixels, which is no square; {remedy}")
        if head.size != first:
            raise UserError(
                f"{path}: {width} x {height} pixels, but {paths[0]} has "
                f"{first[0]} x {first[1]}; {remedy}"
            )
    return first[0]
