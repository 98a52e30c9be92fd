"""A person's own classes in their own file: every command takes the runs made of them."""

import json
import sys

import pytest
import torch
from launch import TWO_STEPS, train_in
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnbp.cli import main

pytest.importorskip("matplotlib")

NETWORKS = """\
import torch
from torch import nn


class Convolutions(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.first = nn.Conv2d(1, width, 5, stride=3)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=3)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8 * width, 10)

    def forward(self, images):
        features = self.second(self.first(images).relu()).relu()
        return self.last(self.drop(features.flatten(1)))


class Perceptron(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.GELU(), nn.Linear(width, 10)
        )

    def forward(self, images):
        return self.layers(images)
"""
OPTIMIZER = """\
import torch


class Signs(torch.optim.SGD):
    def __init__(self, params, step: float):
        super().__init__(params, lr=step)
"""
MODEL = """\
defaults: [classifier]
network:
  _target_: {network}
  width: 6
"""
NAMES = {"cnn": "own_networks.Convolutions", "mlp": "own_networks.Perceptron"}


@pytest.fixture(scope="module", params=NAMES)
def trained(request, tmp_path_factory):
    """The folder of an own network, its config and its optimizer, with a run in `outputs/run`."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "own_networks.py").write_text(NETWORKS)
    (folder / "own_optimizer.py").write_text(OPTIMIZER)
    (folder / "groups/model").mkdir(parents=True)
    (folder / "groups/optimizer").mkdir(parents=True)
    network = NAMES[request.param]
    (folder / "groups/model/mine.yaml").write_text(MODEL.format(network=network))
    (folder / "groups/optimizer/mine.yaml").write_text(
        "_target_: own_optimizer.Signs\n_partial_: true\nstep: 0.05\n"
    )
    forget()
    overrides = ("--config-dir", "groups", "model=mine", "optimizer=mine", "name=run")
    train_in(folder, *TWO_STEPS, *overrides)
    # what only training needs
    (folder / "own_optimizer.py").unlink()
    yield folder
    forget()


def forget():
    """Forget modules of another test's folder."""
    for name in ("own_networks", "own_optimizer"):
        sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if "/pytest-of-" not in folder]


@pytest.fixture
def command(trained, monkeypatch):
    """Run `cnnbp` with arguments in the folder; return its exit status."""
    monkeypatch.chdir(trained)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cnnbp", *map(str, arguments)])
        return main() or 0

    return run


def test_tensorboard_shows_what_there_is(trained):
    board = EventAccumulator(str(trained / "outputs/run"))
    tags = board.Reload().Tags()
    components = {tag.partition("/")[2] for tag in tags["scalars"] if tag.startswith("gradient/")}
    is_cnn = trained.name.startswith("cnn")
    expected = {"first", "second", "last"} if is_cnn else {"layers.1", "layers.3"}
    assert components == expected
    pictures = {tag for tag in tags["images"] if tag.startswith("features/")}
    maps = {"features/first", "features/second"} if is_cnn else set()
    filters = "features/first_filters" if is_cnn else "features/layers.1_filters"
    assert pictures == maps | {filters}
    assert tags["graph"]


def test_it_is_evaluated_and_ranked(trained, command, capsys):
    result = json.loads((trained / "outputs/run/result.json").read_text())
    assert command("leaderboard", "outputs/run") == 0
    assert f"{result['accuracy']:.2%}" in capsys.readouterr().out
    command("evaluate", "outputs/run", "--plot", "wrong.png")
    assert "/10000 (" in capsys.readouterr().out
    assert (trained / "wrong.png").exists()


def test_it_is_explained_with_a_mark_on_what_has_no_equations(trained, command, capsys):
    command("explain", "outputs/run", "--index", 3, "--plot", "explain.png")
    printed = capsys.readouterr().out
    assert (trained / "explain.png").exists()
    assert "autograd" in printed
    # an optimizer without lr has no plain step to measure
    assert "update" in printed


def test_it_is_exported_and_reads_pictures(trained, command, capsys):
    assert command("export", "outputs/run", "--format", "torch") == 0
    assert "on 1,000 test images" in capsys.readouterr().out
    digit = Image.new("L", (28, 28))
    digit.paste(255, (12, 5, 16, 23))
    digit.save(trained / "one.png")
    assert command("predict", "outputs/run", "one.png") == 0
    logits = torch.export.load(trained / "outputs/run/model.pt2")
    assert logits.module()(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)


def test_it_is_reported_with_the_command_that_repeats_it(trained, command):
    command("report", "outputs/run")
    page = (trained / "outputs/run/report.html").read_text()
    assert "--config-dir groups" in page


def test_the_page_says_what_it_does_not_know(trained, command):
    with pytest.raises(SystemExit, match="not a component that the page knows"):
        command("page", "outputs/run")


def test_back_propagation_by_hand_says_what_it_does_not_know(trained):
    overrides = (*TWO_STEPS, "--config-dir", "groups", "model=mine", "name=by_hand", "logger=none")
    with pytest.raises(SystemExit, match="must be one of Conv2d, .* to be propagated by hand"):
        train_in(trained, *overrides, "model.backprop=by_hand")


def test_a_command_elsewhere_names_what_is_missing(trained, command, tmp_path, monkeypatch):
    forget()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="there is no module own_networks here"):
        command("evaluate", trained / "outputs/run")
