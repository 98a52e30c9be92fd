"""A data set of one's own in arrays or in an .npz file: its facts, and what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cnnbp.data.array_data import from_arrays, mean_and_deviation
from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import DataSet, Images
from cnnbp.data.npz_file import read_npz
from cnnbp.errors import UserError

RANDOM = np.random.default_rng(5)
LABELS = np.arange(30) % 3
COLOUR = RANDOM.integers(0, 256, (30, 3, 12, 12), dtype=np.uint8)
ARRAYS = {
    "train_images": COLOUR,
    "train_labels": LABELS,
    "test_images": COLOUR[:6],
    "test_labels": LABELS[:6],
}


@pytest.fixture
def write(tmp_path):
    """Write an .npz file of the arrays, some of them replaced; None leaves one out."""

    def write(**replaced):
        arrays = {}
        for key, value in (ARRAYS | replaced).items():
            if value is not None:
                arrays[key] = value
        path = tmp_path / "pets.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_a_file_gives_the_facts_and_the_images(write, layout):
    images = COLOUR if layout == "channels first" else np.moveaxis(COLOUR, 1, 3)
    names = np.array([["cat"], ["dog"], ["guinea pig"]])
    path = write(train_images=images, test_images=images[:6], class_names=names)
    dataset = read_npz(path)
    assert (dataset.name, dataset.channels, dataset.image_size) == ("pets", 3, 12)
    assert (dataset.choice, dataset.description) == ("npz", "the images of pets.npz")
    assert dataset.class_names == ("cat", "dog", "guinea pig")
    assert not dataset.is_ink_on_paper
    np.testing.assert_allclose(dataset.mean, (COLOUR / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, (COLOUR / 255).std((0, 2, 3)), rtol=1e-12)
    loaded = dataset.load(path)
    np.testing.assert_array_equal(loaded.train_images, COLOUR)
    np.testing.assert_array_equal(loaded.test_labels, LABELS[:6])
    assert loaded.train_images.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(30, 12, 12), (30, 1, 12, 12), (30, 12, 12, 1)])
def test_grey_images_have_one_channel(write, shape):
    grey = COLOUR[:, 0].reshape(shape)
    labels = LABELS[:, None].astype(np.uint8)
    dataset = read_npz(write(train_images=grey, test_images=grey[:6], train_labels=labels))
    assert (dataset.channels, dataset.image_size) == (1, 12)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.load("unused").train_images.shape == (30, 12, 12)
    assert dataset.load("unused").train_labels.tolist() == LABELS.tolist()


def test_mean_and_deviation_do_not_depend_on_the_order():
    images = RANDOM.integers(0, 256, (2500, 2, 4, 4), dtype=np.uint8)
    mean, std = mean_and_deviation(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12)
    assert mean_and_deviation(images[::-1]) == (mean, std)


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"test_labels": None}, "has no array test_labels; must have train_images, "),
        ({"train_images": COLOUR / 255}, "train_images: are float64; must be uint8"),
        ({"train_images": COLOUR[:, :, :8]}, "train_images: are 30 x 3 x 8 x 12; must be N x S"),
        ({"train_images": COLOUR[0, 0]}, "train_images: are 12 x 12; must be"),
        ({"test_images": COLOUR[:0], "test_labels": LABELS[:0]}, "test_images: are 0 x 3 x 12"),
        ({"test_images": COLOUR[:6, :, :8, :8]}, "test_images: are 6 x 3 x 8 x 8; must be like"),
        ({"train_labels": LABELS[:-1]}, "train_labels: are 29; must be 30, one an image"),
        ({"train_labels": LABELS / 2}, "train_labels: are float64; must be whole numbers"),
        ({"train_labels": LABELS - 1}, "train_labels: are from -1 to 1; must be within 0..1"),
        ({"test_labels": LABELS[:6] + 1}, "test_labels: are from 1 to 3; must be within 0..2"),
        ({"train_labels": 2 * LABELS}, r"train_labels: none is 1 \(1\); each class must have a"),
        ({"train_labels": 0 * LABELS, "test_labels": 0 * LABELS[:6]}, "has one class only"),
        ({"class_names": np.array(["cat", "dog"])}, "train_labels: are from 0 to 2; must be with"),
        ({"class_names": np.array(["cat", "dog", "cat"])}, "class_names: are cat, dog, cat; must"),
        ({"train_images": np.zeros_like(COLOUR)}, "train_images: all pixels of channel 0 are 0"),
        ({"test_labels": np.array([None] * 6)}, "is not a whole .npz file"),
        ({"train_images": COLOUR[:, 0, 0, 0]}, "train_images: are 30; must be N x S x S"),
        ({"train_images": COLOUR[:, 0, :, :8]}, "train_images: are 30 x 12 x 8; must be N x S x S"),
        ({"train_labels": np.stack([LABELS, LABELS], 1)}, "train_labels: are 30 x 2; must be 30"),
        ({"train_labels": np.array(1)}, "train_labels: are a single value; must be 30"),
        ({"class_names": np.array(["a", "b", "c", "d"])}, r"train_labels: none is 3 \(d\); each"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(write, replaced, words):
    path = write(**replaced)
    with pytest.raises(UserError, match=f"^{path}: {words}") as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"), [(EOFError(), "EOFError"), (ValueError("two\n lines"), "two lines")]
)
def test_an_error_without_a_text_is_told_by_its_kind(write, monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    path = write()
    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(UserError, match=rf"^{path}: is not a whole .npz file \({reason}\)$"):
        read_npz(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 cut off"])
def test_a_file_that_is_no_archive_is_one_line(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: is not a whole .npz file") as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="missing.npz: no such file"):
        read_npz(tmp_path / "missing.npz")


def own_data(root):
    """A data set of somebody's own, as `data.dataset` names it."""
    return from_arrays(*ARRAYS.values(), class_names=("cat", "dog", "mouse"), name=root.name)


def test_a_function_of_ones_own_gives_the_data_set():
    data = DataModule(own_data, root="somewhere/pets", val_size=10)
    data.setup("fit")
    assert data.dataset.name == "pets"
    assert [len(data.splits[name][1]) for name in ("train", "val", "test")] == [20, 10, 6]
    images = data.prepare(torch.from_numpy(COLOUR))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), **close)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), **close)


def test_something_else_than_a_data_set_is_one_line():
    with pytest.raises(UserError, match="data.dataset=.* gave dict; must be a function that maps"):
        DataModule(lambda root: {})._open()


def test_images_stored_class_by_class_are_not_cut_in_their_order():
    arrays = [COLOUR, np.sort(LABELS), COLOUR[:6], LABELS[:6]]
    with pytest.raises(UserError, match="stored class by class, so .*; store them shuffled"):
        DataModule(from_arrays(*arrays), val_size=5).setup("fit")
    DataModule(from_arrays(*arrays)).setup("fit")


def test_facts_go_through_a_checkpoint():
    dataset = own_data(Path("pets"))
    again = DataSet.from_facts(dataset.facts, dataset.read)
    assert again == dataset
    with pytest.raises(UserError, match="the checkpoint's data set cannot be read"):
        DataSet.from_facts({"name": "pets"}, dataset.read)


def test_a_restored_run_prepares_as_it_was_trained_though_the_data_have_changed():
    trained = DataModule(own_data)
    darker = from_arrays(COLOUR // 2, LABELS, COLOUR[:6], LABELS[:6], ("cat", "dog", "mouse"))
    images = torch.from_numpy(COLOUR)
    restored = DataModule(darker)
    restored.load_state_dict(trained.state_dict())
    assert torch.equal(restored.prepare(images), trained.prepare(images))
    assert torch.equal(restored.dataset.load("unused").train_images, images // 2)


@pytest.mark.parametrize("change", ["pixels", "classes"])
def test_a_run_is_not_continued_on_other_data(change):
    trained = DataModule(own_data).state_dict()
    images, names = COLOUR, ("cat", "dog", "mouse")
    if change == "pixels":
        images = COLOUR // 2
    else:
        names = ("cat", "dog", "rat")
    other = DataModule(from_arrays(images, LABELS, COLOUR[:6], LABELS[:6], names))
    assert other.dataset  # a run opens its data before it reads a checkpoint
    with pytest.raises(UserError, match="data.root=data: has changed since this run began"):
        other.load_state_dict(trained)
    if change == "classes":
        restored = DataModule(other.source)
        restored.load_state_dict(trained)
        with pytest.raises(UserError, match="has the classes cat, dog, rat; the run was trained"):
            restored.setup("test")


def test_two_classes_are_enough():
    labels = np.arange(30) % 2
    assert from_arrays(COLOUR, labels, COLOUR[:6], labels[:6]).class_names == ("0", "1")


def test_words_about_the_data_may_change_and_what_was_measured_is_named():
    options = {"class_names": ("cat", "dog", "mouse")}
    trained = DataModule(own_data).state_dict()
    other = from_arrays(COLOUR, LABELS, COLOUR[:6], LABELS[:6], description="pets", **options)
    data = DataModule(other)
    assert data.dataset.description != trained["dataset"]["description"]
    data.load_state_dict(trained)
    data = DataModule(from_arrays(COLOUR // 2, LABELS, COLOUR[:6], LABELS[:6], **options))
    assert data.dataset
    with pytest.raises(UserError, match=r"began \(mean: \[[^]]+\] -> \[[^]]+\]\); give another"):
        data.load_state_dict(trained)


def test_the_fields_of_a_file_are_those_of_images():
    assert tuple(ARRAYS) == Images._fields
