"""What stops a training whose numbers are no longer finite."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cnnbp.training.callbacks.divergence import Diverged, Finite

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def trainer_of(step=7, other_process=False):
    """A trainer with one more process, which has diverged or not."""

    def decide(own, all):
        return own and other_process if all else own or other_process

    return SimpleNamespace(
        global_step=step,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])],
        checkpoint_callback=None,
        strategy=SimpleNamespace(reduce_boolean_decision=decide),
    )


def see(callback, loss, **options):
    callback.on_train_batch_end(trainer_of(**options), None, {"loss": torch.tensor(loss)}, None, 0)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("index", [0, 1])
def test_no_weight_that_is_not_finite_is_saved(value, index):
    module = nn.Linear(2, 3)
    Finite().on_save_checkpoint(trainer_of(), module, {})
    with torch.no_grad():
        list(module.parameters())[index][1] = value
    with pytest.raises(Diverged, match=r"^a weight is not finite at step 7, with .* rate 0\.25"):
        Finite().on_save_checkpoint(trainer_of(), module, {})


@pytest.mark.parametrize("value", NOT_FINITE)
def test_the_first_loss_is_named_before_a_checkpoint_and_after_an_epoch(value):
    def seen():
        callback = Finite()
        for step, loss in enumerate([1.0, value, 1.0, value]):
            see(callback, loss, step=step)
        return callback

    with pytest.raises(Diverged, match=f"^the loss is {value} at step 1,"):
        seen().on_save_checkpoint(trainer_of(), nn.Linear(2, 3), {})
    with pytest.raises(Diverged, match=f"^the loss is {value} at step 1,"):
        seen().on_train_epoch_end(trainer_of(), None)


def test_losses_are_looked_at_once_in_so_many_steps():
    callback = Finite(every_n_steps=3)
    for _ in range(2):
        see(callback, float("nan"))
    with pytest.raises(Diverged):
        see(callback, 1.0)
    # what has been looked at is not kept
    assert callback.coming == []


def test_an_epoch_of_finite_losses_goes_on():
    callback = Finite()
    see(callback, 1.0)
    callback.on_train_epoch_end(trainer_of(), None)


def test_a_process_stops_with_another_one():
    with pytest.raises(Diverged, match="^the loss of another process is not finite at step 7"):
        see(Finite(every_n_steps=1), 1.0, other_process=True)
    see(Finite(every_n_steps=1), 1.0, other_process=False)
