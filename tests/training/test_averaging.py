"""Averaged weights against the closed form and an undisturbed run."""

import json
from pathlib import Path

import pytest
import torch
from launch import TWO_STEPS
from torch.nn import functional as F

from cnnbp.training.callbacks.checkpoints import Checkpoints
from cnnbp.training.restore import restore

DECAY = 0.3
SMALL = (
    *TWO_STEPS,
    "trainer.limit_train_batches=3",
    "trainer.max_epochs=3",
    "~callbacks.dashboard",
    "logger=none",
    "optimizer.lr=0.1",
    "trainer.precision=32-true",
    "average=ema",
    f"callbacks.average.decay={DECAY}",
)


def checkpoint(name):
    return torch.load(f"outputs/{name}/checkpoints/last.ckpt", weights_only=True)


def result(name):
    return json.loads(Path(f"outputs/{name}/result.json").read_text())


@pytest.fixture
def steps(train, monkeypatch):
    """A run under the name "whole".

    The state of the network after each of its nine steps, in float64.
    """
    from cnnbp.training.callbacks.throughput import Speed

    states, original = [], Speed.on_train_batch_end

    def keep(self, trainer, module, *arguments):
        states.append({name: value.clone().double() for name, value in module.state_dict().items()})
        original(self, trainer, module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Speed, "on_train_batch_end", keep)
        train(*SMALL, "name=whole")
    return states


def test_weights_and_statistics_follow_the_closed_form(steps):
    average = steps[0]
    for taken, state in enumerate(steps[1:], 1):
        share = min(DECAY, (1 + taken) / (10 + taken))
        average = {
            name: share * average[name] + (1 - share) * value for name, value in state.items()
        }
    saved = checkpoint("whole")
    for name, value in saved["state_dict"].items():
        expected = steps[-1][name] if "num_batches" in name else average[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(saved["current_model_state"][name].double(), steps[-1][name])


def test_what_is_reported_and_restored_is_the_average(steps):
    _, data, model = restore("outputs/whole")
    data.setup("test")
    images, labels = (tensor[:100] for tensor in data.splits["test"])

    def loss():
        with torch.inference_mode():
            return F.cross_entropy(model(data.normalise(images[:, None].float())), labels).item()

    assert loss() == pytest.approx(result("whole")["loss"])
    model.load_state_dict(checkpoint("whole")["current_model_state"])
    assert loss() != pytest.approx(result("whole")["loss"], rel=1e-4)


@pytest.mark.parametrize("epoch", [1, 2], ids=["midway", "after the last epoch"])
def test_an_interrupted_run_ends_in_the_same_averages(steps, train, monkeypatch, epoch):
    save = Checkpoints.on_train_epoch_end

    def stop(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == epoch:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(*SMALL, "name=cut")
    train(*SMALL, "name=cut")
    whole, cut = checkpoint("whole"), checkpoint("cut")
    for part in ("state_dict", "current_model_state"):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)
    assert result("cut")["loss"] == result("whole")["loss"]


def test_a_checkpoint_of_the_other_kind_is_refused(steps, train):
    with pytest.raises(SystemExit, match="trained with averaged weights; resume with the average="):
        train(
            *SMALL[:-2],
            "name=more",
            "trainer.max_epochs=4",
            "ckpt_path=outputs/whole/checkpoints/last.ckpt",
        )
