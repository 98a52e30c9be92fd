"""CIFAR-10 in torchvision's format: small files, damaged and malicious ones, the download."""

import gzip
import os
import pickle
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from cnnbp.data import downloads
from cnnbp.data.cifar_files import FOLDER, TEST_FILE, TRAIN_FILES, read_batch
from cnnbp.data.datasets import CIFAR10
from cnnbp.errors import UserError

RANDOM = np.random.default_rng(3)
# of each file, as it stores them: a row an image, its red pixels first
ROWS = {
    name: RANDOM.integers(0, 256, (4, 3072), dtype=np.uint8) for name in (*TRAIN_FILES, TEST_FILE)
}
LABELS = {name: [number, 0, 5, 9] for number, name in enumerate(ROWS)}


def batch(name):
    return pickle.dumps({"data": ROWS[name], "labels": LABELS[name]}, protocol=2)


def write(folder, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ROWS:
        raw = batch(name)
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(raw) if compress else raw)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", [".", FOLDER])
def test_own_files_are_used(tmp_path, monkeypatch, place, compress):
    monkeypatch.setattr(downloads, "_download", None)
    write(tmp_path / place, compress)
    images = CIFAR10.load(tmp_path)
    train = np.concatenate([ROWS[name] for name in TRAIN_FILES]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(images.train_images, train)
    np.testing.assert_array_equal(images.test_images, ROWS[TEST_FILE].reshape(-1, 3, 32, 32))
    labels = [label for name in TRAIN_FILES for label in LABELS[name]]
    assert images.train_labels.tolist() == labels
    assert images.test_labels.tolist() == LABELS[TEST_FILE]
    assert images.train_images.dtype == torch.uint8


def test_file_names_and_classes_are_torchvisions():
    from torchvision.datasets import CIFAR10 as torchvisions

    names = [name for name, _ in (*torchvisions.train_list, *torchvisions.test_list)]
    assert (torchvisions.base_folder, names) == (FOLDER, [*TRAIN_FILES, TEST_FILE])


def test_a_file_of_python_2_is_read(tmp_path):
    """Written byte by byte as Python 2 and NumPy 1 did, by whom the published files are."""
    pixels = bytes(range(256)) * 12
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nT" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    (tmp_path / "old").write_bytes(b"(dS'data'\n" + array + b"sS'labels'\n(lI7\nas.")
    images, labels = read_batch(tmp_path / "old")
    assert images.tobytes() == pixels
    assert labels.tolist() == [7]


class Malicious:
    def __reduce__(self):
        return os.system, ("touch harmed",)


DAMAGED = {
    "cut off": batch(TEST_FILE)[:-50],
    "empty": b"",
    "other": pickle.dumps({"fine_labels": []}),
    "wrong shape": pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}),
    "malicious": pickle.dumps({"data": Malicious(), "labels": []}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line_and_runs_nothing(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "data_batch_2").write_bytes(DAMAGED[damage])
    with pytest.raises(UserError, match=r"data_batch_2: not a whole batch of CIFAR-10") as caught:
        CIFAR10.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not Path("harmed").exists()


def test_labels_outside_the_classes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(LABELS, TEST_FILE, [0, 1, 2, 10])
    write(tmp_path)
    with pytest.raises(UserError, match=r"data=cifar10: test labels from 0 to 10; must be within"):
        CIFAR10.load(tmp_path)


def test_a_download_keeps_whole_files(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    def download(url, download_root, filename=None, md5=None):
        write(Path(download_root) / FOLDER)

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    # torchvision compares with the published files
    monkeypatch.setattr(cifar.CIFAR10, "_check_integrity", lambda self: has_files(self.root))
    monkeypatch.setattr(cifar.CIFAR10, "_load_meta", lambda self: None)
    assert len(CIFAR10.load(tmp_path).train_labels) == 20
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == sorted(ROWS)
    assert not list(tmp_path.glob(".*.partial"))


def has_files(root):
    return (Path(root) / FOLDER / TEST_FILE).exists()


def test_no_network_is_one_line(tmp_path, monkeypatch, capfd):
    def fail(*_, **__):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(UserError, match="data=cifar10: CIFAR10 could .* not known") as caught:
        CIFAR10.load(tmp_path)
    assert f"put {', '.join(ROWS)} (plain or .gz) into {tmp_path / FOLDER}" in str(caught.value)
    assert "".join(capfd.readouterr()) == ""
