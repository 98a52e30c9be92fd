"""What looks at losses while a network trains does not wait for a device."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from cnnbp.training.callbacks import divergence, progress_bar
from cnnbp.training.callbacks.divergence import Diverged, Finite
from cnnbp.training.callbacks.host_copy import HostCopy
from cnnbp.training.callbacks.progress_bar import Progress


class Late:
    """A copy that is here once it has been asked for three times, as from a GPU."""

    is_late = True
    made: ClassVar[list] = []

    def __init__(self, values):
        self.values, self.asked = values, 0
        Late.made.append(self)

    def is_here(self):
        self.asked += 1
        return self.asked > 2

    def read(self):
        return self.values.flatten().tolist()


def trainer_at(step):
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    group = {"lr": 0.1}
    return SimpleNamespace(
        global_step=step,
        num_training_batches=100,
        strategy=strategy,
        optimizers=[SimpleNamespace(param_groups=[group])],
        checkpoint_callback=None,
    )


def first_report(callback, bad):
    """The step in which a callback stops the training, and what it says."""
    for step in range(1, 20):
        outputs = {"loss": torch.tensor(float("nan") if step == bad else 1.0)}
        try:
            callback.on_train_batch_end(trainer_at(step), None, outputs, None, step - 1)
        except Diverged as error:
            return step, str(error)
    return None


def test_a_nan_is_found_at_the_next_look_and_on_a_gpu_one_later(monkeypatch):
    step, message = first_report(Finite(every_n_steps=4), bad=6)
    assert (step, message.startswith("the loss is nan at step 6,")) == (8, True)
    monkeypatch.setattr(divergence, "HostCopy", Late)
    step, message = first_report(Finite(every_n_steps=4), bad=6)
    assert (step, message.startswith("the loss is nan at step 6,")) == (12, True)


def test_nothing_is_left_unseen_at_the_end_of_an_epoch(monkeypatch):
    monkeypatch.setattr(divergence, "HostCopy", Late)
    callback = Finite(every_n_steps=4)
    for step in range(1, 7):
        outputs = {"loss": torch.tensor(float("inf") if step == 6 else 1.0)}
        callback.on_train_batch_end(trainer_at(step), None, outputs, None, step - 1)
    with pytest.raises(Diverged, match="the loss is inf at step 6,"):
        callback.on_train_epoch_end(trainer_at(6), None)


def test_the_bar_copies_a_loss_ten_times_a_second_and_shows_it_when_it_comes(monkeypatch):
    Late.made.clear()
    now = [0.0]
    monkeypatch.setattr(progress_bar, "HostCopy", Late)
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress, shown = Progress(), []
    progress.on_train_epoch_start(SimpleNamespace(is_global_zero=False, num_training_batches=1), 0)
    progress.bar = SimpleNamespace(
        disable=False,
        n=0,
        set_description_str=lambda text, refresh: shown.append(text),
        update=lambda count: None,
    )
    for batch in range(50):
        now[0] += 0.01
        outputs = {"loss": torch.tensor(float(batch))}
        progress.on_train_batch_end(trainer_at(batch), None, outputs, None, batch)
    # one each 0.1 s, shown two batches after it was begun
    assert 4 <= len(Late.made) <= 5
    first = int(Late.made[0].values)
    assert shown[0] == f"loss={first:.4f} batch_id={first}"
    assert len(shown) == len(Late.made) or len(shown) == len(Late.made) - 1


def test_on_the_cpu_a_copy_is_the_tensor_itself():
    values = torch.tensor([1.5, 2.5], requires_grad=True)
    copy = HostCopy(values)
    assert copy.is_here()
    assert not copy.is_late
    assert copy.read() == [1.5, 2.5]


@pytest.mark.gpu
def test_on_a_gpu_a_copy_comes_by_itself():
    copy = HostCopy(torch.arange(3.0, device="cuda"))
    torch.cuda.synchronize()
    assert copy.is_here()
    assert copy.is_late
    assert copy.read() == [0.0, 1.0, 2.0]
