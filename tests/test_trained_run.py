"""Runs from Python, as a notebook trains and loads them: several in one process."""

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from launch import TWO_STEPS
from PIL import Image
from pytorch_lightning import Callback

import cnnbp
from cnnbp.cli import main
from cnnbp.errors import UserError

OWN = (
    "~model.network",
    "+model.network._target_=torch.nn.Sequential",
    "+model.network._args_="
    + (
        "[{_target_: torch.nn.Flatten}, "
        "{_target_: torch.nn.Linear, in_features: 784, out_features: 10}]"
    ),
)


class Interrupt(Callback):
    """Presses Ctrl-C in the first step of a run that starts afresh."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def run(here):
    return cnnbp.train([*TWO_STEPS, "name=first", "data.val_size=100", "logger=csv"])


def test_importing_it_is_cheap():
    code = "import sys, cnnbp; assert 'torch' not in sys.modules; print(cnnbp.__all__)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert b"load" in printed.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cnnbp.nothing


def test_a_config_group_of_ones_own_is_found(here, monkeypatch):
    monkeypatch.setattr("cnnbp.config.config_files.own_folders", own_folders := [])
    monkeypatch.setattr("cnnbp.config.compose.own_folders", own_folders)
    (here / "own/optimizer").mkdir(parents=True)
    (here / "own/optimizer/slow.yaml").write_text(
        "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.0003\n"
    )
    for _ in range(2):
        run = cnnbp.train([*TWO_STEPS, "name=own", "optimizer=slow"], config_dir="own")
    assert run.config.optimizer.lr == 0.0003
    assert len(own_folders) == 1
    with pytest.raises(UserError, match="--config-dir nowhere: no such folder"):
        cnnbp.train(config_dir="nowhere")


def test_a_run_has_its_config_result_and_curves(here, run):
    assert run.path == here / "outputs/first"
    assert run.config.optimizer.lr == 0.01
    assert run.result["steps"] == 2
    assert {len(values) for values in run.curves.values()} == {1}
    assert run.curves["step"].tolist() == [2]
    assert run.curves["accuracy/val"][-1] == pytest.approx(run.result["val_accuracy"])
    assert f"test accuracy {run.result['accuracy']:.2%}" in repr(run)
    log = (run.path / "train.log").read_text()
    assert "everything of this run is in outputs/first" in log


def test_a_second_run_in_the_same_process_and_a_third_that_is_finished(run, capsys, monkeypatch):
    handlers = signal.getsignal(signal.SIGINT), list(logging.root.handlers)
    again = cnnbp.train([*TWO_STEPS, "name=second", "logger=none", *OWN])
    assert isinstance(again.network, torch.nn.Sequential)
    assert again.result["parameters"] == 7850
    assert "loss=" in capsys.readouterr().out
    assert again.curves == {}
    same = cnnbp.train([*TWO_STEPS, "name=second", "logger=none", *OWN])
    assert same.result == again.result
    assert "is finished" in capsys.readouterr().out
    assert (signal.getsignal(signal.SIGINT), list(logging.root.handlers)) == handlers
    # a command takes the run as any other
    monkeypatch.setattr(sys, "argv", ["cnnbp", "evaluate", "outputs/second"])
    main()
    assert "/10000 (" in capsys.readouterr().out


def test_a_network_and_what_it_predicts(here, run, capsys, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    loaded = cnnbp.load("outputs/first")
    assert not loaded.network.training
    data = loaded._restored[1]
    with torch.no_grad():
        logits = loaded.network(data.prepare(torch.from_numpy(images)))
    predictions = loaded.predict(images)
    assert predictions.probabilities == pytest.approx(logits.softmax(1).numpy(), abs=0.01)
    assert predictions.labels.tolist() == logits.argmax(1).tolist()
    assert predictions.names == [str(label) for label in predictions.labels]
    # the same images otherwise
    for same in (torch.from_numpy(images), images[:, None], list(images)):
        assert np.array_equal(loaded.predict(same).probabilities, predictions.probabilities)
    # a batch of one is computed by another kernel
    assert loaded.predict(images[0]).probabilities == pytest.approx(
        predictions.probabilities[:1], abs=1e-3
    )
    digit = Image.new("L", (40, 60), "white")
    digit.paste(0, (18, 5, 24, 50))
    digit.save("one.png")
    from_file = loaded.predict("one.png")
    assert np.array_equal(from_file.probabilities, loaded.predict(digit).probabilities)
    assert len(loaded.predict(["one.png", "one.png"]).labels) == 2
    # as the command reads it
    monkeypatch.setattr(sys, "argv", ["cnnbp", "predict", "outputs/first", "one.png"])
    main()
    assert f"  {from_file.names[0]}  " in capsys.readouterr().out


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 27, 28), np.uint8),
        np.zeros((2, 3, 28, 28), np.uint8),
        np.zeros((2, 28, 28), np.float32),
        np.zeros(28, np.uint8),
        [],
        "missing.png",
    ],
)
def test_wrong_images_are_named(run, images):
    with pytest.raises(UserError, match=r"images of shape|missing\.png"):
        run.predict(images)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer=nothing"], "no such choice"),
        (["nothing=1"], "no such key"),
        (["callbacks=null"], "callbacks=none"),
        (["seed=1,2"], "multirun"),
        (["launcher=joblib"], "train.py -m"),
        (["trainer.devices=2"], "train.py"),
        (["name=first"], "was made with another config"),
        (["name=wrong", "+model.network.depth=5"], "model.network.depth: no such key"),
    ],
)
def test_a_mistake_is_an_exception_with_one_line(run, overrides, said):
    with pytest.raises(UserError, match=said) as error:
        cnnbp.train(overrides)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no run here"):
        cnnbp.load("outputs/wrong")


def test_a_stopped_run_continues_to_the_same_weights(run):
    handler = signal.getsignal(signal.SIGINT)
    interrupting = (
        *TWO_STEPS,
        "logger=none",
        "data.val_size=100",
        f"+callbacks.interrupt._target_={__name__}.Interrupt",
        "name=stopped",
    )
    with pytest.raises(KeyboardInterrupt):
        cnnbp.train(interrupting)
    stopped = cnnbp.load("outputs/stopped")
    assert stopped.result is None
    assert "unfinished" in repr(stopped)
    assert signal.getsignal(signal.SIGINT) is handler
    finished = cnnbp.train(interrupting).network.state_dict()
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, finished[name])
