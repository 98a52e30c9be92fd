"""Images come whole or not at all.

The embedded MNIST, a user's IDX files, downloads by many processes at once.
"""

import gzip
import hashlib
import multiprocessing
import os
import shutil
import signal
import struct
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from cnnbp.data import datasets, downloads
from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import DATASETS, MNIST
from cnnbp.data.idx_files import MNIST_FILES, QMNIST_FILES
from cnnbp.errors import UserError

PUBLISHED_MD5 = {
    "train_images": "6bbc9ace898e44ae57da46a324031adb",
    "train_labels": "a25bea736e30d166cdddb491f175f624",
    "test_images": "2646ac647ad5339dbf082846283269ea",
    "test_labels": "27ae3e4e09519cfbb04c329615203637",
}


# in the format of MNIST, those that are not part of the package
DOWNLOADED = ["FashionMNIST", "KMNIST", "QMNIST"]


def files(dataset: str) -> tuple[str, ...]:
    return QMNIST_FILES if dataset == "QMNIST" else MNIST_FILES


def idx(array: np.ndarray) -> bytes:
    """The bytes of an IDX file; int32 stands for QMNIST's labels."""
    kind = 0x0C if array.dtype == np.int32 else 0x08
    header = struct.pack(f">{1 + array.ndim}I", 256 * kind + array.ndim, *array.shape)
    return header + (array.astype(">i4") if kind == 0x0C else array.astype(np.uint8)).tobytes()


def small(dataset: str, train: int = 50, test: int = 20) -> list[np.ndarray]:
    """Four random arrays as a data set's files hold them."""
    random = np.random.default_rng(0)
    arrays = []
    for count in (train, test):
        labels = random.integers(0, 10, count)
        if dataset == "QMNIST":
            labels = np.column_stack([labels, random.integers(-1, 10**6, (count, 7))]).astype(
                np.int32
            )
        arrays += [random.integers(0, 256, (count, 28, 28)), labels]
    return arrays


def write(folder: Path, dataset: str, compress: bool = False, **replace: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for field, name, array in zip(
        datasets.Images._fields, files(dataset), small(dataset), strict=True
    ):
        raw = idx(replace.get(field, array))
        paths.append(folder / (f"{name}.gz" if compress else name))
        paths[-1].write_bytes(gzip.compress(raw) if compress else raw)
    return paths


def assert_small(images: datasets.Images, dataset: str) -> None:
    for found, array in zip(images, small(dataset), strict=True):
        expected = array if array.ndim == 3 else array.reshape(len(array), -1)[:, 0]
        assert found.dtype == (torch.uint8 if array.ndim == 3 else torch.int64)
        np.testing.assert_array_equal(found.numpy(), expected)


def one_line(caught: pytest.ExceptionInfo, *parts: object) -> None:
    assert "\n" not in str(caught.value)
    for part in parts:
        assert str(part) in str(caught.value)


@pytest.fixture(scope="module")
def mnist():
    return MNIST.load("unused")


def test_embedded_mnist_is_the_published_one(mnist):
    for name, md5 in PUBLISHED_MD5.items():
        assert hashlib.md5(idx(getattr(mnist, name).numpy())).hexdigest() == md5


def test_embedded_mnist_has_shapes_and_dtypes(mnist):
    for count, images, labels in ((60000, *mnist[:2]), (10000, *mnist[2:])):
        assert images.shape == (count, 28, 28)
        assert images.dtype == torch.uint8
        assert labels.shape == (count,)
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("damage", ["flipped byte", "truncated", "missing"])
def test_damaged_embedded_mnist_is_one_line(tmp_path, monkeypatch, damage):
    raw = bytearray(datasets.MNIST_ARCHIVE.read_bytes())
    raw[len(raw) // 2] ^= 1 if damage == "flipped byte" else 0
    copy = tmp_path / "mnist.npz"
    if damage != "missing":
        copy.write_bytes(raw[:-100] if damage == "truncated" else raw)
    monkeypatch.setattr(datasets, "MNIST_ARCHIVE", copy)
    with pytest.raises(UserError) as caught:
        datasets._embedded_mnist.__wrapped__()  # what has been read once is kept
    one_line(caught, copy, "reinstall", "git checkout")


def test_embedded_mnist_reads_from_a_read_only_directory(tmp_path, monkeypatch):
    copy = tmp_path / "mnist.npz"
    shutil.copy(datasets.MNIST_ARCHIVE, copy)
    monkeypatch.setattr(datasets, "MNIST_ARCHIVE", copy)
    copy.chmod(0o444)
    tmp_path.chmod(0o555)
    before = tmp_path.stat().st_mtime_ns  # root may write all the same, so look for traces too
    try:
        assert len(datasets._embedded_mnist.__wrapped__()[0]) == 60000
        assert tmp_path.stat().st_mtime_ns == before
    finally:
        tmp_path.chmod(0o755)


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*_):
        raise AssertionError("downloads although the files are there")

    monkeypatch.setattr(downloads, "_download", refuse)


@pytest.mark.parametrize("dataset", DOWNLOADED)
@pytest.mark.parametrize("place", [".", "{dataset}/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_own_files_are_used(tmp_path, no_download, dataset, place, compress):
    write(tmp_path / place.format(dataset=dataset), dataset, compress)
    assert_small(DATASETS[dataset].load(str(tmp_path)), dataset)


def test_own_files_in_a_read_only_directory_are_used(tmp_path, no_download):
    write(tmp_path, "KMNIST")
    tmp_path.chmod(0o555)
    before = set(tmp_path.rglob("*"))
    try:
        assert_small(DATASETS["KMNIST"].load(tmp_path), "KMNIST")
        assert set(tmp_path.rglob("*")) == before
    finally:
        tmp_path.chmod(0o755)


def test_qmnist_test_set_is_the_first_ten_thousand(tmp_path, no_download):
    labels = np.zeros((10_050, 8), np.int32)
    labels[10_000:, 0] = 9
    write(tmp_path, "QMNIST", test_images=np.zeros((10_050, 28, 28)), test_labels=labels)
    images = DATASETS["QMNIST"].load(tmp_path)
    assert images.test_images.shape == (10_000, 28, 28)
    assert images.test_labels.tolist() == [0] * 10_000


def test_file_names_are_torchvisions():
    from torchvision import datasets

    for dataset in DOWNLOADED:
        resources = getattr(datasets, dataset).resources
        if dataset == "QMNIST":
            resources = resources["train"] + resources["test"]
        assert [os.path.basename(url).removesuffix(".gz") for url, _ in resources] == list(
            files(dataset)
        )


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("damage", ["truncated", "header only", "empty", "too long", "magic"])
def test_damaged_idx_file_is_one_line(tmp_path, compress, damage):
    path = write(tmp_path, "FashionMNIST", compress)[0]
    raw = path.read_bytes()
    if damage == "magic":
        raw = b"\0\0\x0c\x03" + (gzip.decompress(raw) if compress else raw)[4:]
        raw = gzip.compress(raw) if compress else raw
    size = {"truncated": -1, "header only": 7, "empty": 0}.get(damage)
    path.write_bytes(raw + b"x" if damage == "too long" else raw[:size])
    with pytest.raises(UserError) as caught:
        DATASETS["FashionMNIST"].load(tmp_path)
    one_line(caught, path)


@pytest.mark.parametrize(
    ("replace", "part"),
    [
        ({"train_labels": np.full(50, 10)}, "0..9"),
        ({"train_labels": np.zeros(49)}, "49 training labels for 50 x 28 x 28 images"),
        ({"test_images": np.zeros((20, 32, 32))}, "20 test labels for 20 x 32 x 32 images"),
        ({"test_images": np.zeros((0, 28, 28)), "test_labels": np.zeros(0)}, "0 test labels"),
    ],
)
def test_data_that_does_not_fit_is_one_line(tmp_path, replace, part):
    write(tmp_path, "FashionMNIST", **replace)
    with pytest.raises(UserError) as caught:
        DATASETS["FashionMNIST"].load(tmp_path)
    one_line(caught, "data=fashion_mnist", part)


def test_unknown_data_set_is_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        DataModule("CIFAR")
    one_line(caught, "data.dataset=CIFAR", "FashionMNIST")


@pytest.mark.parametrize("dataset", DOWNLOADED)
def test_no_network_is_one_line(tmp_path, monkeypatch, capfd, dataset):
    def fail(*_, **__):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(UserError) as caught:
        DATASETS[dataset].load(tmp_path)
    data, names = DATASETS[dataset].choice, files(dataset)
    one_line(
        caught, f"data={data}", "Name or service not known", *names, tmp_path / dataset / "raw"
    )
    assert "".join(capfd.readouterr()) == ""
    assert not list(tmp_path.rglob("*ubyte*"))


def test_root_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        DATASETS["KMNIST"].load(tmp_path / "file")
    one_line(caught, "data=kmnist", "Not a directory")


@pytest.fixture
def slow_downloads(tmp_path, monkeypatch):
    """Replace torchvision's downloads by slow ones of small files.

    The file that is returned counts them.
    """
    from torchvision.datasets import mnist as torchvision_mnist

    log = tmp_path / "log"

    def download(url, download_root, filename=None, md5=None):
        name = os.path.basename(filename or url).removesuffix(".gz")
        with open(log, "a") as file:
            file.write(f"{name}\n")
        raw = (tmp_path / "published" / name).read_bytes()
        with open(os.path.join(download_root, name), "wb") as file:
            file.write(raw[:100])
            file.flush()
            time.sleep(0.1)
            file.write(raw[100:])

    write(tmp_path / "published", "FashionMNIST")
    monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", download)
    return log


def start(root: Path):
    """Load the images in a process of its own; forked, so that it sees the replaced downloads."""

    def load():
        images = DATASETS["FashionMNIST"].load(root)
        os._exit(0 if images.train_images.shape == (50, 28, 28) else 1)

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    return process


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # fork beside torch's idle threads
def test_eight_processes_download_once(tmp_path, slow_downloads):
    processes = [start(tmp_path / "root") for _ in range(8)]
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0] * 8
    assert slow_downloads.read_text().split() == list(MNIST_FILES)
    assert not list((tmp_path / "root").glob(".*.partial"))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_download_does_no_harm(tmp_path, slow_downloads):
    process = start(tmp_path / "root")
    while not slow_downloads.exists() or len(slow_downloads.read_text().split()) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list((tmp_path / "root").glob(".*.partial"))
    assert_small(DATASETS["FashionMNIST"].load(tmp_path / "root"), "FashionMNIST")
    assert len(slow_downloads.read_text().split()) == 2 + 4
    assert not list((tmp_path / "root").glob(".*.partial"))


def test_stored_means_and_deviations_are_those_of_the_training_images(mnist):
    """QMNIST's training images are MNIST's; of the others the published values are pinned."""
    shares = mnist.train_images.float() / 255
    measured = (round(shares.mean().item(), 4),), (round(shares.std().item(), 4),)
    published = {
        "MNIST": measured,
        "QMNIST": measured,
        "FashionMNIST": ((0.2860,), (0.3530,)),
        "KMNIST": ((0.1918,), (0.3483,)),
    }
    for dataset in (MNIST, datasets.QMNIST, datasets.FASHION_MNIST, datasets.KMNIST):
        assert (dataset.mean, dataset.std) == published[dataset.name]
