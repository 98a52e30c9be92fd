"""A data set made of arrays: its facts are read off them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnbp.data.datasets import DataSet
from cnnbp.errors import UserError

# counted at a time, to save memory
IMAGES_AT_A_TIME = 1000


def from_arrays(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    name: str = "own",
    choice: str = "own",
    description: str = "images of one's own",
    notice: str = "licence not stated",
) -> DataSet:
    """Check arrays, and measure the mean and the deviation of the training images.

    Args:
        train_images, test_images: uint8, (N, S, S), (N, C, S, S) or (N, S, S, C).
        train_labels, test_labels: whole numbers in [0, K), (N,) or (N, 1).
        class_names: K names; by default the labels.
        name, choice, description, notice: as in `DataSet`.

    Raises:
        UserError: names the array that does not fit, and says why.
    """
    train_images, train_labels = _checked(train_images, train_labels, "train")
    test_images, test_labels = _checked(test_images, test_labels, "test")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"test_images: are {_shape(test_images)}; must be like train_images, "
            f"which are {_shape(train_images)}"
        )
    names = _class_names(class_names, train_labels)
    _check_classes(train_labels, test_labels, names)
    mean, std = mean_and_deviation(train_images)
    arrays = [train_images, train_labels, test_images, test_labels]
    return DataSet(
        name=name,
        choice=choice,
        description=description,
        notice=notice,
        class_names=names,
        mean=mean,
        std=std,
        read=lambda root: arrays,
        channels=len(mean),
        image_size=train_images.shape[-1],
    )


def mean_and_deviation(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, scaled to [0, 1].

    Args:
        images: uint8, (N, S, S) or (N, C, S, S).

    Raises:
        UserError: all pixels of a channel are alike, so that it cannot be normalised.
    """
    if images.ndim == 3:
        images = images[:, None]
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        # whole numbers: the order of the images changes nothing
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), IMAGES_AT_A_TIME):
            pixels = images[start : start + IMAGES_AT_A_TIME, channel]
            counts += np.bincount(pixels.ravel(), minlength=256)
        if np.count_nonzero(counts) == 1:
            raise UserError(
                f"train_images: all pixels of channel {channel} are {counts.argmax()}; "
                "must differ, or the channel be left out"
            )
        share = counts / counts.sum()
        mean = (share * levels).sum()
        means.append(float(mean))
        deviations.append(float(np.sqrt((share * (levels - mean) ** 2).sum())))
    return tuple(means), tuple(deviations)


def _checked(images: Any, labels: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of "train" or "test" as a data set stores them, and as many labels."""
    images = _checked_images(images, f"{part}_images")
    return images, _checked_labels(labels, len(images), f"{part}_labels")


def _checked_images(images: Any, name: str) -> np.ndarray:
    """Images as (N, S, S), or (N, C, S, S) with several channels."""
    images = np.asarray(images)
    shape = _shape(images)
    if images.dtype != np.uint8:
        raise UserError(f"{name}: are {images.dtype}; must be uint8, from 0 to 255")
    if images.ndim == 4 and images.shape[1] == images.shape[2] != images.shape[3]:
        images = np.moveaxis(images, 3, 1)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    is_square = images.ndim in (3, 4) and images.shape[-1] == images.shape[-2]
    if not is_square or images.size == 0:
        raise UserError(
            f"{name}: are {shape}; must be N x S x S, N x C x S x S or N x S x S x C, "
            "of one image or more"
        )
    return np.ascontiguousarray(images)


def _checked_labels(labels: Any, images: int, name: str) -> np.ndarray:
    """The labels as int64 (N,)."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (images,):
        raise UserError(f"{name}: are {_shape(labels)}; must be {images}, one an image")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name}: are {labels.dtype}; must be whole numbers from 0")
    return labels.astype(np.int64)


def _class_names(names: Sequence[str] | None, train_labels: np.ndarray) -> tuple[str, ...]:
    if names is None:
        highest = max(0, int(train_labels.max()))
        names = [str(label) for label in range(highest + 1)]
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        raise UserError(f"class_names: are {', '.join(texts)}; must differ")
    return texts


def _check_range(labels: np.ndarray, class_names: tuple[str, ...], name: str) -> None:
    highest = len(class_names) - 1
    if labels.min() < 0 or labels.max() > highest:
        raise UserError(
            f"{name}: are from {labels.min()} to {labels.max()}; must be within 0..{highest}"
        )


def _check_classes(
    train_labels: np.ndarray, test_labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
    _check_range(train_labels, class_names, "train_labels")
    _check_range(test_labels, class_names, "test_labels")
    if len(class_names) < 2:
        raise UserError(f"has one class only ({', '.join(class_names)}); must have two or more")
    counts = np.bincount(train_labels, minlength=len(class_names))
    for label, count in enumerate(counts):
        if count == 0:
            raise UserError(
                f"train_labels: none is {label} ({class_names[label]}); "
                "each class must have a training image"
            )


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a single value"
