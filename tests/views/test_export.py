"""Exported files against torch on raw pixels, as another program loads them.

The card against the run's records.
"""

import json
import logging
import re
import shutil
import statistics
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO

import numpy as np
import pytest
import torch
from launch import TWO_STEPS, train_in
from omegaconf import OmegaConf
from paths import ROOT

from cnnbp.config.error_line import errors_on_one_line
from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import MNIST
from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.runs.run_record import RunRecord
from cnnbp.training.restore import restore
from cnnbp.views.export import FORMATS, Deployed, export, largest_difference
from cnnbp.views.model_card import Exported, describe_accuracy, render_card

SMALL = (*TWO_STEPS, "data.val_size=5000", "optimizer=adamw")
SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "torch": ".pt2"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps, made once for this file."""
    directory = tmp_path_factory.mktemp("exported")
    train_in(directory, *SMALL, "name=one")
    logging.root.setLevel(logging.WARNING)  # Hydra set it lower, for this whole process
    return directory / "outputs" / "one"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Export the run once in each format whose packages are installed.

    Return the path and what was printed.
    """

    @cache
    def exported(format):
        need(format)
        with redirect_stdout(StringIO()) as printed:
            path = export(run, format, tmp_path_factory.mktemp(format) / f"net{SUFFIXES[format]}")
        return path, printed.getvalue()

    return exported


def need(format):
    for package in FORMATS[format].packages:
        pytest.importorskip(package)


def sections(path):
    """The text of each section of the card, by its heading."""
    head, *rest = path.with_name(f"{path.name}.md").read_text().split("\n## ")
    return {"": head} | dict(part.split("\n\n", 1) for part in rest)


def play(snippet, **given):
    """Run a snippet with some of its assignments replaced; return its logits."""
    for name in given:
        snippet, count = re.subn(
            rf"^{name} = .*$", f"{name} = given['{name}']", snippet, flags=re.MULTILINE
        )
        assert count == 1
    names = {"given": given}
    exec(snippet, names)
    return torch.as_tensor(names["logits"])


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_snippet_on_the_card_computes_what_the_run_does(run, exported, monkeypatch, format):
    path, printed = exported(format)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [path.name, f"{path.name}.md"]
    )
    told = re.fullmatch(r"(.*): within (\S+) of torch's logits on 1,000 test images\n", printed)
    assert told[1] == str(path)
    assert f"within {told[2]} of PyTorch's" in sections(path)[""]

    monkeypatch.chdir(path.parent)
    snippet = re.search(r"```python\n(.*?)```", sections(path)[""], re.DOTALL)[1]
    assert play(snippet).shape == (3, 10)
    _, data, model = restore(run)
    raw = np.random.default_rng(1).integers(0, 256, (1000, 1, 28, 28), np.uint8)
    with torch.no_grad():
        wanted = model(data.normalise(torch.from_numpy(raw).float()))
        for size in (1, 2, 7, 1000):
            logits = play(
                snippet, images=raw[:size] if format == "onnx" else torch.from_numpy(raw[:size])
            )
            torch.testing.assert_close(logits, wanted[:size], rtol=0, atol=1e-4)


def test_the_largest_difference_is_over_all_images_and_batch_sizes():
    wanted = torch.randn(1000, 10, generator=torch.Generator().manual_seed(1))
    images = torch.zeros(1000, 1, 28, 28)

    def run(batch):
        off = torch.zeros(len(batch), 10)
        off[-1, 3] = {1: 0.5, 7: -0.25, 1000: 0.125}[len(batch)]
        return wanted[: len(batch)] + off

    assert largest_difference(run, images, wanted) == pytest.approx(0.5)
    assert np.isnan(
        largest_difference(
            lambda batch: run(batch) * (torch.nan if len(batch) == 7 else 1), images, wanted
        )
    )


def test_onnx_is_one_file_that_says_what_it_takes(exported):
    path, _ = exported("onnx")
    import onnx

    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    (images,), (logits,) = model.graph.input, model.graph.output
    for value, name, shape, kind in (
        (images, "images", ["batch", 1, 28, 28], 2),
        (logits, "logits", ["batch", 10], 1),
    ):
        tensor = value.type.tensor_type
        assert (value.name, tensor.elem_type) == (name, kind)  # 1 is float32, 2 is uint8
        assert [size.dim_param or size.dim_value for size in tensor.shape.dim] == shape
    assert "opset 20" in sections(path)[""]


def test_safetensors_keeps_the_bits_and_what_builds_the_network(run, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    path = export(run, "safetensors", tmp_path / "net.safetensors", "best")
    network = restore(run, "best")[2].network
    with safetensors.safe_open(path, "pt") as file:
        facts = file.metadata()
        assert set(file.keys()) == network.state_dict().keys()
        for name, value in network.state_dict().items():
            assert torch.equal(file.get_tensor(name), value)
    options = {"widths": [32, 24, 16, 24, 16], "dropout": [0.05, 0.1, 0.1, 0.1]}
    options |= {"activation": "relu", "norm": "batch", "order": "activation_norm", "head": "gap"}
    options |= {"channels": 1, "image_size": 28, "classes": 10}
    assert json.loads(facts.pop("network")) == options
    assert facts == {"format": "pt", "dataset": "MNIST", "mean": "[0.1307]", "std": "[0.3081]"}
    assert "the last epoch; this file holds those of the best epoch" in sections(path)["Accuracy"]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_no_folder_of_this_machine_is_told(exported, format):
    path, _ = exported(format)
    for file in (path, path.with_name(f"{path.name}.md")):
        assert str(ROOT).encode() not in file.read_bytes()
        assert sys.prefix.encode() not in file.read_bytes()


@pytest.mark.parametrize("format", SUFFIXES)
def test_other_networks_and_statistics(tmp_path, format):
    need(format)
    torch.manual_seed(2)
    options = {
        "widths": (4, 8, 4, 4, 4),
        "norm": "group",
        "activation": "gelu",
        "order": "norm_activation",
    }
    options |= {"head": "linear"}
    deployed = Deployed(Network(**options), DataModule("FashionMNIST"))
    images = torch.randint(256, (1000, 1, 28, 28), dtype=torch.uint8)
    with open(tmp_path / "file", "wb") as file, torch.no_grad():
        computed = FORMATS[format].write(deployed, options, file)
        wanted = deployed.network((images / 255 - 0.286) / 0.353)
    assert largest_difference(computed, images, wanted) < 1e-5


@pytest.mark.parametrize("format", SUFFIXES)
def test_what_computes_something_else_is_refused(run, tmp_path, monkeypatch, capfd, format):
    need(format)
    monkeypatch.setattr(
        Deployed, "forward", lambda self, images: self.network(images / 255)
    )  # no mean, no deviation
    with pytest.raises(SystemExit) as exit, errors_on_one_line():
        export(run, format, tmp_path / f"net{SUFFIXES[format]}")
    # a text as the code means exit status 1
    assert re.fullmatch(
        r"error: .*: not written, it differs from torch by .*; give another --format",
        exit.value.code,
    )
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_by_default_the_file_lies_in_the_run_and_outlives_a_refusal(run, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    shutil.copytree(run, tmp_path / "run")
    written = [tmp_path / "run" / "model.safetensors", tmp_path / "run" / "model.safetensors.md"]
    assert export(tmp_path / "run", "safetensors") == written[0]
    before = [file.read_bytes() for file in written]
    monkeypatch.setattr(
        Deployed, "forward", lambda self, images: self.network(images.float()) * torch.nan
    )
    with pytest.raises(UserError, match="differs from torch by nan"):
        export(tmp_path / "run", "safetensors")
    assert [file.read_bytes() for file in written] == before
    assert len(list((tmp_path / "run").iterdir())) == len(list(run.iterdir())) + 2


def test_one_wrong_bit_in_safetensors_is_refused(run, tmp_path, monkeypatch):
    torch_side = pytest.importorskip("safetensors.torch")
    save = torch_side.save

    def flip(state, metadata):
        state["conv5.bias"] = torch.nextafter(state["conv5.bias"], torch.tensor(9.0))
        return save(state, metadata)

    monkeypatch.setattr(torch_side, "save", lambda state, metadata: flip(dict(state), metadata))
    with pytest.raises(UserError, match="bit by bit"):
        export(run, "safetensors", tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_the_run(run, exported):
    card, result = sections(exported("torch")[0]), json.loads((run / "result.json").read_text())
    assert card[""].startswith(
        "# MNIST classifier with 19,866 parameters\n\n`net.pt2`: the last checkpoint of "
        "the run `one`, seed 1."
    )
    percent = {key: f"{100 * result[key]:.2f}%" for key in ("accuracy", "val_accuracy")}
    wanted = (
        f"{percent['accuracy']} of the test images, {percent['val_accuracy']} of the "
        f"validation images (seed 1)."
    )
    assert card["Accuracy"].strip() == wanted
    training = card["Network and training"]
    assert "| epochs | 1 |" in training
    assert "| batch size | 16 |" in training
    assert "| optimizer | AdamW(lr=0.001, weight_decay=0.01, fused=True) |" in training
    assert "| learning rate schedule | none |" in training
    assert (
        "Network(widths=[32, 24, 16, 24, 16], dropout=[0.05, 0.1, 0.1, 0.1], activation=relu"
        in training
    )
    assert f"    python train.py {' '.join(SMALL)}\n" in training + "\n"
    assert "CC BY-SA 3.0" in card["Licences"]


def test_the_card_tells_the_data_set(run):
    dataset = replace(
        MNIST, name="Pets", class_names=("cat", "dog", "mouse"), channels=3, image_size=32
    )
    exported = Exported("net.pt2", "last", 5, 1e-7)
    card = render_card(RunRecord(run), torch.nn.Linear(2, 3), dataset, "snippet", exported)
    assert card.startswith("# Pets classifier with 9 parameters\n")
    assert "32 x 32 pixels, in colour" in card
    assert "The 3 classes are cat, dog, mouse." in card


def test_a_colour_program_of_three_classes(tmp_path):
    dataset = replace(MNIST, class_names=("cat", "dog", "mouse"), channels=3, image_size=8)
    torch.manual_seed(5)
    data = DataModule()
    data.dataset = dataset
    layers = torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)
    deployed = Deployed(torch.nn.Sequential(*layers), data)
    images = torch.randint(256, (1000, 3, 8, 8), dtype=torch.uint8)
    with open(tmp_path / "file", "wb") as file, torch.no_grad():
        program = FORMATS["torch"].write(deployed, {}, file)
        expected = deployed.network((images / 255 - dataset.mean[0]) / dataset.std[0])
    assert expected.shape == (1000, 3)
    assert largest_difference(program, images, expected) < 1e-5


def copy(run, directory, seed, accuracy, **changes):
    """A finished run like another, but for its seed, accuracy and other keys of its config."""
    shutil.copytree(run, directory, ignore=shutil.ignore_patterns("*.ckpt", "events*"))
    record = directory / ".hydra" / "config.yaml"
    config = OmegaConf.load(record)
    for key, value in ({"seed": seed, "name": directory.name} | changes).items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, record)
    result = json.loads((run / "result.json").read_text())
    (directory / "result.json").write_text(
        json.dumps(result | {"seed": seed, "accuracy": accuracy})
    )


def test_runs_that_differ_by_seed_are_taken_together(run, tmp_path):
    scores = {1: 0.9912, 2: 0.9931, 10: 0.9947}
    for seed, score in scores.items():
        copy(run, tmp_path / f"seed={seed}", seed, score)
    copy(run, tmp_path / "another", 3, 0.5, **{"optimizer.lr": 0.1})
    copy(run, tmp_path / "again", 1, 0.6)  # counts once for its seed, and this run's own is taken
    copy(run, tmp_path / "unfinished", 4, 0.7)
    (tmp_path / "unfinished" / "result.json").unlink()
    (tmp_path / "leaderboard.csv").touch()
    mean, deviation = statistics.mean(scores.values()), np.std(list(scores.values()), ddof=1)
    spread = (
        f"{mean:.2%} +- {deviation:.2%} over n = 3 seeds (1, 2, 10), mean and standard deviation."
    )
    own, together = describe_accuracy(RunRecord(tmp_path / "seed=1"), "last")
    assert own.startswith("99.12% of the test images")
    assert together == spread
    assert describe_accuracy(RunRecord(tmp_path / "another"), "last")[1:] == []
    trial = json.loads((tmp_path / "again" / "result.json").read_text())
    del trial["accuracy"]  # as a search leaves it, which never looks at the test set
    (tmp_path / "again" / "result.json").write_text(json.dumps(trial))
    assert describe_accuracy(RunRecord(tmp_path / "again"), "last") == [
        f"{trial['val_accuracy']:.2%} of the validation images (seed 1).",
        spread,
    ]
    assert (
        describe_accuracy(RunRecord(tmp_path / "unfinished"), "last")[0]
        == "Not known, because the run is unfinished."
    )


def test_mistakes_are_told_with_their_mending(run, tmp_path, monkeypatch):
    def mistake(message, *arguments):
        with pytest.raises(UserError, match=message):
            export(*arguments)

    mistake(r"nowhere: no run here", tmp_path / "nowhere", "torch")
    mistake(r"net\.md: --format torch writes \*\.pt2 files", run, "torch", tmp_path / "net.md")
    mistake(
        r"missing is not a directory .*; mkdir -p .*missing$",
        run,
        "torch",
        tmp_path / "missing" / "net.pt2",
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    mistake(r"--format onnx needs onnx, .*onnxruntime; pip install 'cnnbp\[export\]'", run, "onnx")
    assert list(tmp_path.iterdir()) == []
