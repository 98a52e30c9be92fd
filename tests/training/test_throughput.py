"""Seconds, samples and learning rates by a clock that the tests set."""

from types import SimpleNamespace

import pytest
import torch

from cnnbp.training.callbacks import throughput
from cnnbp.training.callbacks.throughput import Speed

MODULE = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """What time it is, in seconds."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now.seconds)
    return now


class Run:
    """A training of epochs of three batches, by two processes; keeps what is logged."""

    def __init__(self, callback, clock):
        self.callback, self.clock, self.logged = callback, clock, []
        logger = SimpleNamespace(
            log_metrics=lambda values, step: self.logged.append((values, step))
        )
        self.trainer = SimpleNamespace(
            world_size=2,
            num_training_batches=3,
            global_step=12,
            loggers=[logger],
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}, {"lr": 0.1}])],
        )

    def begin(self):
        self.callback.on_train_start(self.trainer, MODULE)

    def begin_epoch(self, rate):
        self.trainer.optimizers[0].param_groups[0]["lr"] = rate
        self.callback.on_train_epoch_start(self.trainer, MODULE)
        # a schedule moves on
        self.trainer.optimizers[0].param_groups[0]["lr"] = 0.0

    def batch(self, index, seconds=2.0, size=8):
        self.clock.seconds += seconds
        batch = None, torch.zeros(size)
        self.callback.on_train_batch_end(self.trainer, MODULE, None, batch, index)

    def end_epoch(self):
        # an evaluation takes time too
        self.clock.seconds += 100
        self.callback.on_train_epoch_end(self.trainer, MODULE)


def test_each_epoch_has_its_own_numbers_and_the_total_is_of_all(clock):
    run = Run(Speed(), clock)
    run.begin()
    clock.seconds += 10
    for rate, seconds in ((0.5, 2.0), (0.25, 1.0)):
        run.begin_epoch(rate)
        for index in range(3):
            run.batch(index, seconds)
        run.end_epoch()
    names = ("learning_rate", "speed/epoch_seconds", "speed/samples_per_second")
    assert [tuple(values[name] for name in names) for values, _ in run.logged] == [
        (0.5, 6.0, 8.0),
        (0.25, 3.0, 16.0),
    ]
    assert [step for _, step in run.logged] == [12, 12]
    assert run.callback.total == {"seconds": 9.0, "samples": 96}


def test_an_epoch_that_is_continued_counts_what_came_before(clock):
    run = Run(Speed(), clock)
    run.begin()
    run.begin_epoch(1.0)
    for index in range(3):
        run.batch(index, 1.0)
    run.begin_epoch(0.5)
    run.batch(0)
    state = run.callback.state_dict()
    clock.seconds = 5.0
    continued = Run(Speed(), clock)
    continued.callback.load_state_dict(state)
    continued.begin()
    continued.batch(1)
    continued.batch(2)
    continued.end_epoch()
    ((values, _),) = continued.logged
    assert values["speed/epoch_seconds"] == 6.0
    assert values["speed/samples_per_second"] == 8.0
    assert values["learning_rate"] == 0.5
    assert continued.callback.total == {"seconds": 9.0, "samples": 96}
    # the state of the one is not that of the other
    assert state["total"] == {"seconds": 3.0, "samples": 48}


def test_a_gpu_is_waited_for_at_the_end_of_an_epoch_alone(clock, monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(clock.seconds))
    run = Run(Speed(), clock)
    run.begin()
    run.begin_epoch(0.5)
    for index in range(3):
        monkeypatch.setattr(MODULE, "device", torch.device("cuda"))
        run.batch(index)
    assert waits == [1006.0]
