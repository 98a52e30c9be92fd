"""A data set of one's own in folders of pictures: split, sizes, colours, cache and mistakes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnbp.data import picture_folder
from cnnbp.data.picture_files import as_image, open_picture, read_image
from cnnbp.data.picture_folder import read_folder
from cnnbp.errors import UserError

COUNTS = {"apple": 10, "pear": 5, "quince": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Cached arrays go here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cnnbp"


def value(label, number):
    """Which grey level marks a picture."""
    return 20 + 60 * label + number


def fill(root, counts=COUNTS, first=0, mode="RGB", size=(12, 12), ending="png"):
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(first, first + count):
            level = value(label, number)
            colour = level if mode == "L" else (level, 255 - level, 7)
            picture = Image.new(mode, size, colour)
            picture.putpixel((0, 0), 0 if mode == "L" else (0, 0, 0))
            picture.save(root / name / f"{number:02}.{ending}")
    return root


def marks(images, labels):
    """The pictures that images are, as pairs of label and number."""
    levels = images[:, 0, 5, 5] if images.ndim == 4 else images[:, 5, 5]
    return [(label, level - value(label, 0)) for label, level in zip(labels, levels, strict=True)]


def test_a_share_of_each_class_is_the_test_set(tmp_path):
    dataset = read_folder(fill(tmp_path / "fruit"))
    assert dataset.class_names == ("apple", "pear", "quince")
    assert (dataset.name, dataset.channels, dataset.image_size) == ("fruit", 3, 12)
    train_images, train_labels, test_images, test_labels = dataset.read(Path())
    assert np.bincount(test_labels).tolist() == [2, 1, 1]
    everything = [(label, n) for label, count in enumerate(COUNTS.values()) for n in range(count)]
    train, test = marks(train_images, train_labels), marks(test_images, test_labels)
    assert sorted(train + test) == everything
    assert train != sorted(train)  # what is held out is of all classes
    again = read_folder(tmp_path / "fruit").read(Path())
    assert marks(*again[:2]) == train
    other = read_folder(tmp_path / "fruit", split_seed=2).read(Path())
    assert marks(*other[2:]) != test
    half = read_folder(tmp_path / "fruit", test_share=0.5).read(Path())
    assert np.bincount(half[3]).tolist() == [5, 2, 2]


def test_folders_named_train_and_test_are_the_split(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", {"apple": 1, "pear": 2, "quince": 3}, first=20)
    dataset = read_folder(tmp_path, test_share=0.9)
    _, train_labels, test_images, test_labels = dataset.read(Path())
    assert np.bincount(train_labels).tolist() == list(COUNTS.values())
    assert marks(test_images, test_labels) == [
        (0, 20),
        *[(1, 20), (1, 21)],
        *[(2, 20), (2, 21), (2, 22)],
    ]
    shutil.rmtree(tmp_path / "test" / "pear")
    with pytest.raises(UserError, match=r"test: has the classes apple, quince; must be those of"):
        read_folder(tmp_path)


def test_pictures_without_colours_have_one_channel(tmp_path):
    fill(tmp_path / "grey", mode="L", ending="jpg")
    dataset = read_folder(tmp_path / "grey")
    assert dataset.channels == len(dataset.mean) == 1
    assert dataset.read(Path())[0].shape == (15, 12, 12)
    Image.new("RGB", (12, 12), (9, 9, 9)).save(tmp_path / "grey" / "pear" / "colour.png")
    assert read_folder(tmp_path / "grey").channels == 3


def test_pictures_of_all_sizes_are_cropped_and_scaled(tmp_path):
    root = fill(tmp_path / "fruit", size=(30, 20))
    Image.new("RGB", (5, 50)).save(root / "pear" / "tall.png")
    with pytest.raises(UserError, match=r"\.png: \d+ x \d+ pixels, which is no square; give data"):
        read_folder(root)
    assert read_folder(root, image_size=16).read(Path())[0].shape[1:] == (3, 16, 16)
    fill(tmp_path / "squares")
    Image.new("RGB", (13, 13)).save(tmp_path / "squares" / "pear" / "large.png")
    with pytest.raises(UserError, match="13 x 13 pixels, but .* has 12 x 12; give data.dataset.im"):
        read_folder(tmp_path / "squares")


def test_pictures_are_decoded_once(tmp_path, cache, monkeypatch):
    root = fill(tmp_path / "fruit")
    first = read_folder(root)
    (kept,) = cache.iterdir()

    def refuse(*_):
        raise AssertionError("decodes again")

    with monkeypatch.context() as patch:
        patch.setattr(picture_folder, "_decode", refuse)
        again = read_folder(root)
        assert again.facts == first.facts
        for one, other in zip(again.read(Path()), first.read(Path()), strict=True):
            np.testing.assert_array_equal(one, other)
        with pytest.raises(AssertionError):
            read_folder(root, image_size=8)
    Image.new("RGB", (12, 12), (1, 2, 3)).save(root / "pear" / "00.png")
    assert read_folder(root).mean != first.mean
    kept.write_bytes(b"damaged")
    assert read_folder(root).mean != first.mean
    assert list(cache.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_folder(fill(tmp_path / "fruit")).channels == 3


def test_what_systems_leave_is_no_picture(tmp_path):
    root = fill(tmp_path / "fruit")
    (root / ".git").mkdir()
    (root / "README.md").touch()
    for name in (".DS_Store", "Thumbs.db"):
        (root / "pear" / name).touch()
    assert len(read_folder(root).class_names) == 3


def add_text(root):
    (place := root / "pear" / "notes.txt").write_text("picked on Monday")
    return place


def cut_off(root):
    place = root / "pear" / "99.png"
    place.write_bytes((root / "pear" / "00.png").read_bytes()[:60])
    return place


def without_range(root):
    Image.new("F", (12, 12)).save(place := root / "pear" / "99.tiff")
    return place


def nested(root):
    (place := root / "pear" / "ripe").mkdir()
    return place


def empty(root):
    (place := root / "plum").mkdir()
    return place


def single(root):
    shutil.copy(root / "pear" / "00.png", empty(root))
    return root / "plum"


def beside(root):
    return shutil.copy(root / "pear" / "00.png", root / "lost.png")


def one_class(root):
    shutil.rmtree(root / "apple")
    shutil.rmtree(root / "quince")
    return root


def no_class(root):
    one_class(root)
    shutil.rmtree(root / "pear")
    return root


MISTAKES = {
    add_text: "not a picture that can be read; use PNG or JPEG",
    cut_off: "cannot be read (",
    without_range: "its values (F) have no range; save it as 8-bit",
    nested: "a folder in that of a class",
    empty: "holds no pictures; remove it, or add some",
    single: "holds one picture; must hold two",
    beside: "lies in no folder of a class; move it",
    one_class: "must have a folder of pictures for each of two or more classes; has pear",
    no_class: "must have a folder of pictures for each of two or more classes; has none",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_name(tmp_path, mistake):
    root = fill(tmp_path / "fruit")
    line = re.escape(f"{mistake(root)}: {MISTAKES[mistake]}")
    with pytest.raises(UserError, match=f"^{line}") as caught:
        read_folder(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", ["missing", "fruit/pear/00.png"])
def test_a_root_that_is_no_folder_is_one_line(tmp_path, root):
    fill(tmp_path / "fruit")
    with pytest.raises(UserError, match=f"^data.root={tmp_path / root}: no such folder$"):
        read_folder(tmp_path / root)


def test_modes_and_turns_of_pictures(tmp_path, monkeypatch):
    deep = Image.fromarray(np.full((4, 4), 0x80FF, np.uint16))
    assert as_image(deep, 1, 4).tolist() == [[128] * 4] * 4
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert as_image(clear, 3, 4).min() == 255
    assert as_image(Image.new("1", (4, 4), 1), 3, 4).tolist() == [[[255] * 4] * 4] * 3
    turned = Image.new("L", (4, 4))
    turned.putpixel((0, 0), 255)
    exif = Image.Exif()
    # held so that it has to be turned clockwise
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = as_image(open_picture(tmp_path / "turned.png"), 1, 4)
    assert np.argwhere(upright == 255).tolist() == [[0, 3]]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="turned.png: too many pixels"):
        read_image(tmp_path / "turned.png", 1, 4)
