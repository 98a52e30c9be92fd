"""The schedules against torch's own and against straight lines."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from cnnbp.training import schedules

EPOCHS, STEPS = 4, 5


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, taken = make(optimizer), []
    for _ in range(EPOCHS * STEPS + 1):
        taken.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return taken


def ours(make, **options):
    return rates(lambda optimizer: make(optimizer, EPOCHS, STEPS, **options)["scheduler"])


def test_without_warm_up_they_are_torchs():
    cosine = rates(lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS * STEPS, 0.1))
    assert ours(schedules.cosine, warmup=0, final_lr=0.1) == pytest.approx(cosine)
    line = rates(lambda optimizer: LinearLR(optimizer, 1, 0.2, EPOCHS * STEPS))
    assert ours(schedules.linear, warmup=0, final_lr=0.1) == pytest.approx(line)


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_warm_up_is_a_line_to_the_peak(make):
    taken = ours(make, warmup=0.2, final_lr=0)
    assert taken[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert max(taken) == taken[4]
    assert taken[-1] == pytest.approx(0)


def test_a_warm_up_ends_at_the_nearest_step():
    """0.23 of 20 steps are 4.6."""
    taken = ours(schedules.linear, warmup=0.23, final_lr=0)
    assert taken[:6] == pytest.approx([0.5 * step / 6 for step in range(1, 7)])
    assert taken[6] < taken[5]


def test_the_length_is_known_to_checkpoints():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = schedules.linear(optimizer, EPOCHS, STEPS, warmup=0.1, final_lr=0)["scheduler"]
    assert schedule.state_dict()["total_steps"] == EPOCHS * STEPS


def test_one_cycle_is_torchs_over_all_steps_and_leaves_the_momentum():
    def torchs(optimizer):
        options = {"pct_start": 0.4, "cycle_momentum": False}
        return OneCycleLR(optimizer, 0.5, total_steps=EPOCHS * STEPS + 1, **options)

    def own(optimizer):
        return schedules.one_cycle(optimizer, 1, EPOCHS * STEPS + 1, warmup=0.4)["scheduler"]

    assert rates(own) == pytest.approx(rates(torchs))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.7)
    schedule = schedules.one_cycle(optimizer, EPOCHS, STEPS, warmup=0.4)["scheduler"]
    assert schedule.total_steps == EPOCHS * STEPS
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_plateau_waits_and_multiplies_as_asked_for():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = schedules.plateau(optimizer, EPOCHS, STEPS, factor=0.3, patience=1)["scheduler"]
    taken = []
    for _ in range(4):
        schedule.step(1.0)
        taken.append(optimizer.param_groups[0]["lr"])
    # the second loss is the first that has not fallen, the third one too many
    assert taken == pytest.approx([0.5, 0.5, 0.15, 0.15])
