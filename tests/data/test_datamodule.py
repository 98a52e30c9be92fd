import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnbp.data.array_data import from_arrays
from cnnbp.data.batches import Batches, mix, seed_generators
from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import MNIST
from cnnbp.errors import UserError

IMAGES, LABELS = torch.arange(1000).view(-1, 1), torch.arange(1000) % 10


def ids(batches, epoch):
    batches.set_epoch(epoch)
    return [images.flatten().tolist() for images, _ in batches]


@pytest.mark.parametrize("size", [1, 7, 128, 1000, 5000])
def test_every_image_once_an_epoch_with_its_label(size):
    batches = Batches(IMAGES, LABELS, size, seed=1)
    assert len(list(batches)) == len(batches)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert sorted(images.flatten().tolist()) == list(range(1000))
    assert torch.equal(labels, images.flatten() % 10)


def test_the_order_is_a_function_of_seed_and_epoch():
    first, second = Batches(IMAGES, LABELS, 100, seed=1), Batches(IMAGES, LABELS, 100, seed=1)
    assert ids(first, 0) != ids(first, 1)
    assert ids(second, 1) == ids(first, 1)
    assert ids(Batches(IMAGES, LABELS, 100, seed=2), 0) != ids(first, 0)


def test_without_a_seed_the_order_is_as_stored():
    assert list(itertools.chain(*ids(Batches(IMAGES, LABELS, 300), 3))) == list(range(1000))


def test_the_generator_before_a_batch_is_a_function_of_seed_epoch_and_batch():
    def draws(epoch):
        batches = Batches(IMAGES, LABELS, 250, seed=1)
        batches.set_epoch(epoch)
        return [torch.rand(()).item() for _ in batches]

    first = draws(0)
    torch.rand(99)
    assert draws(0) == first
    assert len({*first, *draws(1)}) == 8


@pytest.mark.parametrize("taken", [0, 1, 4, 10])
def test_an_epoch_continues_in_its_middle(taken):
    whole = ids(Batches(IMAGES, LABELS, 100, seed=1), 2)
    interrupted = Batches(IMAGES, LABELS, 100, seed=1)
    interrupted.set_epoch(2)
    iterator = iter(interrupted)
    for _ in range(taken):
        next(iterator)
    continued = Batches(IMAGES, LABELS, 100, seed=1)
    if taken:
        continued.load_state_dict(interrupted.state_dict())
    assert ids(continued, 2) == whole[taken:]
    assert len(ids(continued, 3)) == 10


def test_two_processes_share_each_batch():
    parts = [
        ids(Batches(IMAGES, LABELS, 100, seed=1, rank=rank, world_size=2), 0) for rank in range(2)
    ]
    whole = ids(Batches(IMAGES, LABELS, 100, seed=1), 0)
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [
        sorted(batch) for batch in whole
    ]


def test_mixed_seeds_do_not_collide():
    assert len({mix(1, epoch, batch, 0) for epoch in range(100) for batch in range(100)}) == 10_000
    assert mix(1, 2) != mix(2, 1)


def test_training_images_are_stored_writer_by_writer():
    """Why the last ones are held out.

    Strokes of one class are alike a few images on, and not a thousand on.
    """
    data = MNIST.load("unused")
    ink = data.train_images.double()
    thickness = ink.sum((1, 2)) / (
        ink.diff(dim=1).abs().sum((1, 2)) + ink.diff(dim=2).abs().sum((1, 2))
    )
    for label in range(10):
        own = data.train_labels == label
        thickness[own] = (thickness[own] - thickness[own].mean()) / thickness[own].std()
    near, far = (
        (thickness[lag:] * thickness[:-lag]).mean().item() for lag in (2, 1000)
    )  # two sources take turns
    assert near > 0.3
    assert far < 0.05


@pytest.mark.parametrize("size", [0, 1, 5000, 59_999])
def test_the_last_images_are_held_out(size):
    data, labels = DataModule(val_size=size), MNIST.load("unused").train_labels
    data.setup("fit")
    assert torch.equal(torch.cat([data.splits["train"][1], data.splits["val"][1]]), labels)
    assert len(data.splits["val"][1]) == len(data.splits["val"][0]) == size


def test_every_class_has_its_share_of_those_held_out():
    labels = MNIST.load("unused").train_labels
    assert (labels[-5000:].bincount() / 5000 - labels.bincount() / 60_000).abs().max() < 0.01


def test_the_split_does_not_depend_on_the_run_seed():
    first, second = (DataModule(val_size=100, seed=seed) for seed in (1, 2))
    for data in (first, second):
        data.setup("fit")
    assert torch.equal(first.splits["val"][0], second.splits["val"][0])
    assert len(first.splits["train"][1]) == 59_900


@pytest.mark.parametrize("eval_batch_size", [1000, 999, 60_000])
def test_evaluation_sees_all_test_images(eval_batch_size):
    data = DataModule(eval_batch_size=eval_batch_size)
    data.setup("test")
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 10_000


def test_normalised_training_images_have_mean_0_and_deviation_1():
    data = DataModule()
    data.setup("fit")
    images = data.normalise(data.splits["train"][0].float())
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_a_pixel_is_normalised_as_published():
    data = DataModule()
    pixels = torch.arange(256.0)
    published = (pixels / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(data.normalise(pixels), published)


def test_a_validation_split_of_everything_is_refused():
    data = DataModule(val_size=60_000)
    with pytest.raises(
        UserError, match="data.val_size=60000: must be less than the 60000 training images"
    ):
        data.setup("fit")


def test_users_files_are_trained_on_without_a_download(tmp_path, train):
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([2049, count], ">i4").tobytes()
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    train("data=kmnist", f"data.root={tmp_path}", "trainer=smoke", "name=own", "data.batch_size=20")
    assert (tmp_path / "outputs/own/result.json").exists()


@pytest.mark.parametrize("folds", [2, 6, 7])
def test_each_image_is_held_out_by_one_fold(folds):
    labels = MNIST.load("unused").train_labels
    parts = []
    for fold in range(folds):
        data = DataModule(folds=folds, fold=fold)
        assert data.epoch_stage == "val"
        data.setup("fit")
        start = sum(map(len, parts))
        parts.append(data.splits["val"][1])
        kept = torch.cat([labels[:start], labels[start + len(parts[-1]) :]])
        assert torch.equal(data.splits["train"][1], kept)
        assert len(data.splits["train"][0]) == len(kept)
    assert torch.equal(torch.cat(parts), labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 6}, "data.fold=None: must be from 0 to 5"),
        ({"folds": 6, "fold": 6}, "data.fold=6: must be from 0 to 5"),
        ({"fold": 0}, "data.fold=0: give data.folds=N, of which it is one"),
        ({"folds": 6, "fold": 0, "val_size": 5}, "data.val_size=5: .* give data.val_size=0"),
        ({"folds": 60_001, "fold": 0}, "data.folds=60001: must be at most the 60000 training"),
    ],
)
def test_folds_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        DataModule(**options).setup("fit")


def test_a_picture_is_read_as_the_data_set_stores_images(tmp_path):
    from PIL import Image

    picture = Image.new("RGB", (12, 12), "white")
    picture.paste("black", (5, 2, 7, 10))
    picture.save(tmp_path / "one.png")
    digit = DataModule().read_picture(tmp_path / "one.png")
    assert digit.shape == (28, 28)
    assert digit[0, 0] == 0  # ink is bright
    colour = DataModule("CIFAR10").read_picture(tmp_path / "one.png")
    assert colour.shape == (3, 32, 32)
    assert colour[:, 0, 0].tolist() == [255, 255, 255]


def of_process(rank, world_size, **options):
    data = DataModule(**options)
    data.splits = {"train": (IMAGES, LABELS), "test": (IMAGES, LABELS)}
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    return data


@pytest.mark.parametrize(
    ("split", "key"), [("train", "data.batch_size"), ("test", "data.eval_batch_size")]
)
def test_each_process_has_an_image_of_the_last_batch(split, key):
    name = key.removeprefix("data.")
    # 1,000 images are two of 499 and 2
    for rank in range(2):
        batches = list(of_process(rank, 2, **{name: 499}).batches(split))
        assert [len(labels) for _, labels in batches] == [250 - rank, 250 - rank, 1]
    # and three of 333 and 1
    with pytest.raises(UserError, match=f"^{key}=333: leaves 1 images .* for 2 processes$"):
        of_process(0, 2, **{name: 333}).batches(split)
    of_process(0, 500, **{name: 500}).batches(split)


def test_only_training_batches_are_shuffled_anew_each_epoch():
    data = of_process(0, 1)
    assert data.epoch_stage == "test"
    assert ids(data.batches("train"), 0) != ids(data.batches("train"), 1)
    stored = list(itertools.chain(*ids(data.batches("test"), 1)))
    assert stored == list(range(1000))


def test_an_evaluation_broken_off_begins_anew():
    batches = Batches(IMAGES, LABELS, 300)
    next(iter(batches))
    assert list(itertools.chain(*ids(batches, 0))) == list(range(1000))


def test_an_epoch_broken_off_does_not_shorten_the_next_one():
    """As with trainer.limit_train_batches."""
    batches = Batches(IMAGES, LABELS, 300, seed=1)
    next(iter(batches))
    assert ids(batches, 1) == ids(Batches(IMAGES, LABELS, 300, seed=1), 1)


def test_shuffled_batches_are_told_which_epoch_comes_and_stored_ones_are_not():
    """Lightning calls set_epoch of what it finds as the loader's sampler."""
    shuffled = Batches(IMAGES, LABELS, 300, seed=1)
    assert shuffled.sampler is shuffled
    assert not hasattr(Batches(IMAGES, LABELS, 300), "sampler")


def test_the_generators_of_the_cpu_and_of_the_device_are_seeded(monkeypatch):
    seeded = []
    module = SimpleNamespace(manual_seed=seeded.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for name, expected in (("cpu", []), ("cuda", [5])):
        seed_generators(torch.device(name), 5)
        assert seeded == expected
        assert torch.initial_seed() == 5


def test_a_new_loader_is_before_the_first_epoch_and_a_used_one_after_it():
    batches = Batches(IMAGES, LABELS, 100, seed=1)
    taken = [images.flatten().tolist() for images, _ in batches]
    assert taken == ids(Batches(IMAGES, LABELS, 100, seed=1), 0)
    assert batches.state_dict() == {"epoch": 1, "batch": 0}


def test_the_first_order_is_repeated_where_asked_for():
    data = of_process(0, 1)
    data.repeat_first_epoch = True
    repeated = data.batches("train")
    assert ids(repeated, 1) == ids(repeated, 3) == ids(of_process(0, 1).batches("train"), 0)


def test_test_images_are_counted_from_0():
    mnist = MNIST.load("unused")
    for index in (0, 9_999):
        image, label = DataModule().test_image(index)
        assert torch.equal(image, mnist.test_images[index])
        assert label == mnist.test_labels[index]
    for index in (-1, 10_000):
        with pytest.raises(UserError, match=f"^--index {index}: must be from 0 to 9999"):
            DataModule().test_image(index)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("takes_stored_images", [True, False, None])
def test_a_batch_is_augmented_in_training_alone_and_once(training, takes_stored_images):
    images, labels = MNIST.load("unused").train_images[:5], torch.arange(5)
    data = DataModule(augment=lambda pixels: 255 - pixels)
    module = SimpleNamespace()
    if takes_stored_images is not None:
        module.takes_stored_images = takes_stored_images
    data.trainer = SimpleNamespace(lightning_module=module, training=training)
    given, same = data.on_after_batch_transfer((images, labels), 0)
    assert same is labels
    if takes_stored_images:
        assert given is images
        return
    pixels = images[:, None].float()
    expected = ((255 - pixels if training else pixels) / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(given, expected)


def test_without_augmentation_training_images_are_normalised():
    data = DataModule()
    data.trainer = SimpleNamespace(lightning_module=None, training=True)
    images = MNIST.load("unused").train_images[:5]
    given, _ = data.on_after_batch_transfer((images, torch.arange(5)), 0)
    torch.testing.assert_close(given, (images[:, None] / 255 - 0.1307) / 0.3081)


def test_a_checkpoint_without_facts_leaves_those_of_the_data():
    data = DataModule()
    data.load_state_dict({})
    assert data.dataset is MNIST


def test_labels_in_order_are_taken_for_chance_below_twenty_images():
    for count in (19, 20):
        labels = np.arange(count) // 10
        images = np.random.default_rng(0).integers(0, 256, (count, 12, 12), dtype=np.uint8)
        data = DataModule(from_arrays(images, labels, images, labels), val_size=1)
        if count == 19:
            data.setup("fit")
            continue
        with pytest.raises(UserError, match="stored class by class"):
            data.setup("fit")
