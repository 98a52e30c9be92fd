"""Which checkpoints training goes on from, by states of torch's optimizers and schedules."""

from functools import partial

import pytest
import torch
from torch import nn

from cnnbp.errors import UserError
from cnnbp.training import schedules
from cnnbp.training.resume import (
    check_averages,
    check_fits,
    check_optimizer,
    check_schedule,
    check_version,
)

EPOCHS, STEPS = 4, 5
SCHEDULES = {
    "cosine": partial(schedules.cosine, warmup=0.2, final_lr=0),
    "one_cycle": partial(schedules.one_cycle, warmup=0.3),
    "step": partial(schedules.step, every=1, gamma=0.1),
    "plateau": partial(schedules.plateau, factor=0.1, patience=0),
}


def sgd(lr=0.1, **options):
    weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0}]
    return torch.optim.SGD(groups, lr=lr, **options)


def make(name, optimizer, epochs=EPOCHS, **options):
    return SCHEDULES[name](optimizer, epochs, STEPS, **options)["scheduler"]


def checkpoint(schedule=None, **options):
    """What Lightning stores of an optimizer, two moves of its schedule on."""
    optimizer = sgd(**options)
    states = []
    if schedule:
        moved = make(schedule, optimizer)
        for _ in range(2):
            optimizer.step()
            moved.step(*[1.0] * (schedule == "plateau"))
        states.append(moved.state_dict())
    return {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": states}


@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_the_same_optimizer_goes_on_however_far_its_rate_has_moved(schedule):
    saved = checkpoint(schedule, momentum=0.9)
    assert (saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1) == (schedule is None)
    check_optimizer(saved, sgd(momentum=0.9))
    # how it is computed may change
    check_optimizer(saved, sgd(momentum=0.9, foreach=True))


@pytest.mark.parametrize("schedule", [None, "cosine", "one_cycle", "step"])
def test_another_rate_is_refused_and_named(schedule):
    with pytest.raises(UserError, match=r"trained with lr=0\.1, not 0\.2; resume with the opt"):
        check_optimizer(checkpoint(schedule), sgd(lr=0.2))


def test_a_rate_that_plateau_has_hidden_may_be_any():
    check_optimizer(checkpoint("plateau"), sgd(lr=0.2))


@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_another_option_is_refused_under_every_schedule(schedule):
    with pytest.raises(UserError, match=r"trained with momentum=0\.9, not 0\.8"):
        check_optimizer(checkpoint(schedule, momentum=0.9), sgd(momentum=0.8))


def test_another_kind_of_optimizer_is_refused():
    adam = torch.optim.Adam(sgd().param_groups[0]["params"], lr=0.1)
    with pytest.raises(UserError, match="trained with another optimizer"):
        check_optimizer(checkpoint(), adam)
    adam.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(UserError, match="resume with the optimizer it was trained with"):
        check_optimizer(checkpoint(), adam)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_same_schedule_goes_on(schedule):
    own = make(schedule, sgd())
    check_schedule(checkpoint(schedule), [own.state_dict()], EPOCHS * STEPS)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_that_is_laid_out_over_other_steps_is_refused(schedule):
    own = make(schedule, sgd(), epochs=3).state_dict()
    with pytest.raises(UserError, match="is for 20 steps in all, not 15; give as many epochs"):
        check_schedule(checkpoint(schedule), [own], 15)


def test_torchs_cosine_has_its_length_too():
    optimizer = sgd()
    own = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20).state_dict()
    check_schedule({"lr_schedulers": [own]}, [own], 20)
    with pytest.raises(UserError, match="is for 20 steps in all, not 15"):
        check_schedule({"lr_schedulers": [own]}, [own], 15)


@pytest.mark.parametrize(
    ("schedule", "key", "value"),
    [("step", "every", 2), ("step", "gamma", 0.5), ("plateau", "factor", 0.5)],
)
def test_another_option_of_a_schedule_is_refused(schedule, key, value):
    own = make(schedule, sgd(), **{key: value}).state_dict()
    name = {"every": "step_size"}.get(key, key)
    with pytest.raises(UserError, match=rf"trained with {name}=[\d.]+, not {value}; resume with"):
        check_schedule(checkpoint(schedule), [own], EPOCHS * STEPS)


@pytest.mark.parametrize(("was", "now"), [("step", "plateau"), (None, "step"), ("step", None)])
def test_another_schedule_is_refused(was, now):
    own = [make(now, sgd()).state_dict()] if now else []
    with pytest.raises(UserError, match="trained with another schedule"):
        check_schedule(checkpoint(was), own, EPOCHS * STEPS)


def test_another_architecture_is_refused_and_the_first_difference_named():
    saved = {"state_dict": nn.Linear(3, 2).state_dict()}
    check_fits(saved, nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"weight has shape \(2, 3\), here \(4, 3\)"):
        check_fits(saved, nn.Linear(3, 4))
    with pytest.raises(UserError, match=r"bias has shape \(2,\), here none"):
        check_fits(saved, nn.Linear(3, 2, bias=False))
    without = {"state_dict": nn.Linear(3, 2, bias=False).state_dict()}
    with pytest.raises(UserError, match=r"bias has shape none, here \(2,\)"):
        check_fits(without, nn.Linear(3, 2))


@pytest.mark.parametrize("averages", [True, False])
def test_averages_are_kept_or_left_out_to_the_end(averages):
    with_averages, without = {"averaging_state": {}}, {}
    check_averages(with_averages if averages else without, averages)
    way = "without" if averages else "with"
    with pytest.raises(UserError, match=f"trained {way} averaged weights"):
        check_averages(without if averages else with_averages, averages)


@pytest.mark.parametrize("counted", [0, 3])
def test_steps_that_lightning_counted_are_of_an_earlier_version(counted):
    progress = {"optimizer": {"step": {"total": {"completed": counted}}}}
    loops = {"fit_loop": {"epoch_loop.automatic_optimization.optim_progress": progress}}
    if not counted:
        check_version({"loops": loops})
        return
    with pytest.raises(UserError, match="an earlier version of cnnbp"):
        check_version({"loops": loops})
