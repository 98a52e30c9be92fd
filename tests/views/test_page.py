"""What is written into the page of a run."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnbp.data.datasets import MNIST
from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.training.restore import restore
from cnnbp.views import page
from cnnbp.views.page import FOLDER, SCRIPTS, described, write_page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps that kept its history, and the contents of its page."""
    directory = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        train(patch, "name=run", "callbacks.history.every_n_epochs=1")
    return directory / "outputs" / "run"


def train(patch, *overrides):
    import runpy
    import sys

    from paths import ROOT

    own = ["trainer=smoke", "logger=none", "~callbacks.dashboard"]
    patch.setattr(sys, "argv", ["train.py", *own, *overrides])
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


@pytest.fixture(scope="module")
def html(run):
    return write_page(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def contents(html):
    found = re.search(
        r'<script type="application/json" id="contents">(.*?)</script>', html, re.DOTALL
    )
    return json.loads(found[1])


def decoded(tensor):
    values = np.frombuffer(base64.b64decode(tensor["values"]), "<f4")
    return torch.from_numpy(values.reshape(tensor["shape"]).copy())


def pictures(sprite, count):
    """The images of a sprite, uint8 (count, 28, 28)."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite["sprite"]))).convert("L"))
    rows = sheet.shape[0] // 28
    cells = sheet.reshape(rows, 28, sprite["columns"], 28).swapaxes(1, 2).reshape(-1, 28, 28)
    return cells[:count]


def test_page_is_small(html):
    assert len(html.encode()) <= 700_000


def test_policy_allows_these_scripts_and_no_request(html):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert rules["img-src"] == "data:"
    scripts = re.findall(r'<script id="script-[a-z_]+">(.*?)</script>', html, re.DOTALL)
    assert len(scripts) == len(SCRIPTS)
    hashes = [hashlib.sha256(script.encode()).digest() for script in scripts]
    wanted = [f"'sha256-{base64.b64encode(value).decode()}'" for value in hashes]
    assert rules["script-src"].split() == wanted


def test_every_script_of_the_folder_is_in_the_page():
    assert {path.stem for path in FOLDER.glob("*.js")} == set(SCRIPTS)


def test_network_is_the_runs(run, contents):
    _, _, model = restore(run)
    state = model.network.state_dict()
    found = {
        f"{component['name']}.{key}": decoded(value)
        for component in contents["network"]
        for part in ("parameters", "buffers")
        for key, value in component[part].items()
    }
    expected = {name: value for name, value in state.items() if value.is_floating_point()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_history_holds_the_weights_before_and_after(run, contents):
    assert [entry["epoch"] for entry in contents["history"]] == [0, 1]
    last = np.frombuffer(base64.b64decode(contents["history"][-1]["values"]), "<f2")
    _, _, model = restore(run)
    values = [value for _, value in page._tensors(described(model.network))]
    expected = np.concatenate([value.ravel() for value in values]).astype(np.float16)
    assert np.array_equal(last, expected)


@torch.no_grad()
def test_test_images_are_the_hardest_and_some_of_each_class(run, contents):
    items = contents["test"]["items"]
    groups = [item["group"] for item in items]
    assert [groups.count(group) for group in ("hardest", "classes", "random")] == [10, 10, 20]
    data = MNIST.load("data")
    shown = pictures(contents["test"], len(items))
    indices = [item["index"] for item in items]
    assert np.array_equal(shown, data.test_images[indices].numpy())
    assert [item["label"] for item in items] == data.test_labels[indices].tolist()
    assert [item["label"] for item in items[10:20]] == list(range(10))
    _, module, model = restore(run)
    losses = nn.functional.cross_entropy(
        model.network(module.prepare(data.test_images)), data.test_labels, reduction="none"
    )
    assert losses[indices[:10]].tolist() == pytest.approx(losses.topk(10).values.tolist())


def test_training_images_are_the_data_sets_in_16_greys(contents):
    training = contents["training"]
    assert (len(training["labels"]), training["heldOut"]) == (1200, 200)
    shown = pictures(training, 1200)
    assert len(np.unique(shown)) == 16
    data = MNIST.load("data")
    known = {image.tobytes() for image in _in_16_greys(data.train_images.numpy())}
    assert all(image.tobytes() in known for image in shown[:1000])


def _in_16_greys(images):
    return (np.round(images / 17) * 17).astype(np.uint8)


def test_long_history_is_thinned_evenly():
    history = [(epoch, np.zeros(20_000, np.float16)) for epoch in range(21)]
    kept = page._thinned(history, 300_000)
    assert [entry["epoch"] for entry in kept] == [0, 5, 10, 15, 20]
    assert page._thinned(history, 60_000) == []
    assert page._thinned([], 300_000) == []


def test_unknown_component_is_named():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2))
    with pytest.raises(UserError, match="1=MaxPool2d"):
        described(network)


def test_convolution_without_bias_is_named():
    with pytest.raises(UserError, match="bias"):
        described(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False)))


def test_network_that_runs_in_another_order_is_refused():
    class Twice(Network):
        def forward(self, images):
            return 2 * super().forward(images)

    torch.manual_seed(1)
    network = Twice().eval()
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad(), pytest.raises(UserError, match="order"):
        page._check_order(network, images, network(images))


def test_no_run_is_told(tmp_path, cnnbp):
    with pytest.raises(SystemExit, match="not a run directory"):
        cnnbp("page", str(tmp_path))


def test_command_writes_where_asked(run, tmp_path, cnnbp, capsys):
    output = tmp_path / "lesson.html"
    assert cnnbp("page", str(run), "--output", str(output)) == 0
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert str(output) in capsys.readouterr().out
