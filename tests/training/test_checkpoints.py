"""After which batches and epochs a state is saved, and when a signal stops a run."""

import signal
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from cnnbp.runs.run_record import LAST, PREVIOUS
from cnnbp.training.callbacks import checkpoints
from cnnbp.training.callbacks.checkpoints import Checkpoints

MODULE = SimpleNamespace(accumulate=2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A callback that saves whenever it may, and its trainer of six batches an epoch."""
    handlers = []
    monkeypatch.setattr(checkpoints, "on_stop", handlers.append)

    def begin(every_n_seconds=0.0, **facts):
        options = {"num_training_batches": 6, "world_size": 1, "ckpt_path": None, "loggers": []}
        trainer = MagicMock(callback_metrics={}, **(options | facts))
        callback = Checkpoints(str(tmp_path), every_n_seconds)
        callback.on_train_start(trainer, MODULE)
        callback.handlers = handlers
        return callback, trainer

    return begin


def take(callback, trainer, batches=range(6)):
    """Take batches; return those after which the state was saved."""
    saved = []
    for batch in batches:
        before = trainer.save_checkpoint.call_count
        callback.on_train_batch_end(trainer, MODULE, None, None, batch)
        if trainer.save_checkpoint.call_count > before:
            saved.append(batch)
    return saved


def test_states_are_saved_between_optimizer_steps_and_not_before_an_evaluation(run):
    assert take(*run()) == [1, 3]
    assert take(*run(every_n_seconds=60.0)) == []


def test_it_is_time_again_so_many_seconds_after_a_save(run, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock.now)
    callback, trainer = run(every_n_seconds=60.0)
    for now, expected in ((59.0, []), (60.0, [1]), (119.0, []), (120.0, [1])):
        clock.now = now
        assert take(callback, trainer, [1]) == expected


@pytest.mark.parametrize("begun_from", [None, LAST, PREVIOUS])
def test_the_state_before_is_kept_unless_it_was_damaged(run, tmp_path, begun_from):
    callback, trainer = run(ckpt_path=begun_from and str(tmp_path / begun_from))
    take(callback, trainer)
    kept = [call.kwargs["storage_options"] for call in trainer.save_checkpoint.call_args_list]
    first = None if begun_from == PREVIOUS else tmp_path / PREVIOUS
    assert kept == [first, tmp_path / PREVIOUS]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_stops_after_the_step_and_a_save(run, number, status):
    callback, trainer = run(every_n_seconds=60.0)
    callback.requests.on_signal(number, None)
    assert take(callback, trainer, [0]) == []
    with pytest.raises(SystemExit) as stopped:
        take(callback, trainer, [1])
    assert stopped.value.code == status
    assert trainer.save_checkpoint.call_count == 1


def test_a_signal_before_an_evaluation_stops_after_it(run):
    callback, trainer = run(every_n_seconds=60.0)
    callback.requests.on_signal(signal.SIGTERM, None)
    assert take(callback, trainer, [5]) == []
    with pytest.raises(SystemExit):
        callback.on_train_epoch_end(trainer, MODULE)
    assert trainer.save_checkpoint.call_count == 1


def test_signals_are_waited_for_in_training_alone(run):
    callback, trainer = run()
    assert callback.handlers == [callback.requests.on_signal]
    callback.on_train_end(trainer, MODULE)
    callback.on_test_start(trainer, MODULE)
    assert callback.handlers[1:] == 2 * [checkpoints.exit_at_once]


@pytest.mark.parametrize(("is_first", "in_fleet"), [(True, False), (False, False), (True, True)])
def test_the_first_process_puts_the_job_back_unless_a_fleet_does(
    run, monkeypatch, is_first, in_fleet
):
    queued = []
    monkeypatch.setattr(checkpoints, "requeue_job", lambda: queued.append("job"))
    monkeypatch.setattr(checkpoints, "REQUEUE", int(signal.SIGTERM))
    callback, trainer = run(is_global_zero=is_first)
    if in_fleet:
        callback.join_fleet(callback.requests)
    callback.requests.asked = callback.requests.signal = checkpoints.REQUEUE
    with pytest.raises(SystemExit):
        take(callback, trainer, [1])
    assert len(queued) == int(is_first and not in_fleet)


def test_processes_stop_together_by_the_highest_request(run):
    callback, trainer = run(every_n_seconds=60.0, world_size=2)
    trainer.strategy.root_device = torch.device("cpu")
    trainer.strategy.reduce.return_value = torch.tensor(int(signal.SIGTERM))
    with pytest.raises(SystemExit):
        take(callback, trainer, [1])
    assert trainer.strategy.reduce.call_args.kwargs == {"reduce_op": "max"}
    callback, trainer = run(every_n_seconds=60.0)
    assert take(callback, trainer, [1]) == []
    trainer.strategy.reduce.assert_not_called()


def test_the_best_is_saved_where_the_validation_accuracy_has_risen(run, tmp_path):
    callback, trainer = run()
    best = []
    for accuracy in (0.5, 0.4, 0.5, 0.75):
        trainer.save_checkpoint.reset_mock()
        trainer.callback_metrics["accuracy/val"] = torch.tensor(accuracy)
        callback.on_train_epoch_end(trainer, MODULE)
        names = [call.args[0].name for call in trainer.save_checkpoint.call_args_list]
        assert names[-1] == LAST
        best.append(len(names) == 2)
    assert best == [True, False, False, True]
    continued = Checkpoints(str(tmp_path))
    continued.load_state_dict(callback.state_dict())
    assert continued.best_accuracy == 0.75
