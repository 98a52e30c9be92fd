"""Every view of a run with another network on colour images of three classes."""

import re
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import MNIST
from cnnbp.runs.run_record import RunRecord
from cnnbp.training.classifier import Classifier
from cnnbp.views import evaluate, explain, html_report
from cnnbp.views.inference import evaluate_test_set

pytest.importorskip("matplotlib")

PETS = replace(
    MNIST,
    name="Pets",
    description="animals at home",
    class_names=("cat", "dog", "guinea pig"),
    channels=3,
    image_size=12,
)
CONFIG = {
    "seed": 1,
    "optimizer": {"lr": 0.1},
    "trainer": {"accelerator": "cpu", "precision": "32-true"},
}


class Stem(nn.Module):
    """A block with a shortcut, as people write them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return x + torch.relu(self.again(x))


NETWORKS = {
    "perceptron": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 144, 16), nn.ReLU(), nn.Linear(16, 3)
    ),
    "residual": lambda: nn.Sequential(
        Stem(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    ),
}


@pytest.fixture(params=NETWORKS)
def run(request, tmp_path, monkeypatch):
    """A run directory, and what it is restored to."""
    torch.manual_seed(6)
    data = DataModule()
    data.dataset = PETS
    images = torch.randint(256, (40, 3, 12, 12), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    data.splits = {"test": (images, labels)}
    model = Classifier(NETWORKS[request.param](), torch.optim.SGD).eval()
    config = OmegaConf.create(CONFIG)
    directory = tmp_path / "run"
    (directory / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, directory / ".hydra" / "config.yaml")
    for view in (evaluate, explain, html_report):
        monkeypatch.setattr(view, "restore", lambda *_: (config, data, model))
    return directory


def test_evaluate(run, capsys):
    evaluate.evaluate(str(run), plot=str(run / "plot.png"), tta=True)
    result = evaluate_test_set(*evaluate.restore(run))
    lines = capsys.readouterr().out.splitlines()
    assert f"{result.correct}/40" in lines[0]
    rows = [line.strip().split("  ")[0] for line in lines[1:5]]
    assert rows == ["class", "cat", "dog", "guinea pig"]
    assert "Mean of 9 shifts" in lines[-1]
    with Image.open(run / "plot.png") as picture:
        red, green, _ = picture.convert("RGB").getpixel((800, 120))  # of a colour image
        assert red != green


def test_explain(run, capsys):
    explain.explain([str(run)], index=4, animate=str(run / "film.gif"))
    lines = capsys.readouterr().out.splitlines()
    first, *_, last = lines
    assert ", test image 4: predicted " in first
    (compared,) = [line for line in lines if "by hand and autograd differ" in line]
    assert re.search(r" in the \d of \d components that have equations$", compared)
    assert "true class dog" in first
    assert last == str(run / "film.gif")
    with Image.open(run / "explain.png") as picture:
        assert picture.size == (1920, 1080)


def test_report(run):
    page = html_report.write_report(run).read_text()
    result = evaluate_test_set(*evaluate.restore(run))
    assert f"{result.correct} of 40 test images" in page
    assert "guinea pig" in page
    assert 'class="drawing" src' in page  # colours are not inverted in the dark
    assert RunRecord(run).error == "unfinished"
