"""The weights that a run keeps after each epoch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnbp.errors import UserError
from cnnbp.model.network import Network
from cnnbp.training.callbacks.averaging import Average
from cnnbp.training.callbacks.history import History, read_history
from cnnbp.training.restore import restore


def trainer_at(epoch, step, callbacks=()):
    return SimpleNamespace(
        current_epoch=epoch, global_step=step, is_global_zero=True, callbacks=callbacks
    )


def arrays(network):
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def test_keeps_the_weights_before_training_and_after_each_epoch(tmp_path):
    module = SimpleNamespace(network=Network())
    history = History(tmp_path / "history", every_n_epochs=2)
    history.on_train_start(trainer_at(0, 0), module)
    for epoch in range(4):
        with torch.no_grad():
            module.network.conv5.bias.fill_(epoch + 1)
        history.on_train_epoch_end(trainer_at(epoch, 1), module)
    like = {"conv5.bias": np.zeros(10)}
    kept = read_history(tmp_path, like)
    assert [epoch for epoch, _ in kept] == [0, 2, 4]
    assert [values.tolist() for _, values in kept[1:]] == [[2.0] * 10, [4.0] * 10]


def test_continued_run_keeps_what_it_had(tmp_path):
    module = SimpleNamespace(network=Network())
    first = History(tmp_path / "history", every_n_epochs=1)
    first.on_train_start(trainer_at(0, 0), module)
    first.on_train_epoch_end(trainer_at(0, 10), module)
    (tmp_path / "history" / ".epoch-002.npz.1.part").write_bytes(b"killed while it was written")
    before = (tmp_path / "history" / "epoch-000.npz").read_bytes()
    second = History(tmp_path / "history", every_n_epochs=1)
    second.on_train_start(trainer_at(1, 10), SimpleNamespace(network=Network()))
    assert (tmp_path / "history" / "epoch-000.npz").read_bytes() == before
    names = sorted(path.name for path in (tmp_path / "history").iterdir())
    assert names == ["epoch-000.npz", "epoch-001.npz"]


def test_off_by_default(tmp_path):
    history = History(tmp_path / "history")
    history.on_train_start(trainer_at(0, 0), SimpleNamespace(network=Network()))
    assert not (tmp_path / "history").exists()


def test_averaged_weights_are_those_that_are_evaluated(train, tmp_path):
    train(
        "name=run",
        "trainer=smoke",
        "average=ema",
        "logger=none",
        "~callbacks.dashboard",
        "callbacks.history.every_n_epochs=1",
    )
    _, _, model = restore("outputs/run")
    like = arrays(model.network)
    like = {name: value for name, value in like.items() if value.dtype == np.float32}
    _, last = read_history("outputs/run", like)[-1]
    expected = np.concatenate([value.ravel() for value in like.values()]).astype(np.float16)
    assert np.array_equal(last, expected)


@pytest.mark.parametrize("damage", ["bytes", "shape"])
def test_damaged_file_is_named(tmp_path, damage):
    folder = tmp_path / "history"
    folder.mkdir()
    path = folder / "epoch-001.npz"
    if damage == "bytes":
        path.write_bytes(b"not an archive")
    else:
        np.savez(path, weight=np.zeros(3, np.float16))
    with pytest.raises(UserError, match=r"epoch-001\.npz"):
        read_history(tmp_path, {"weight": np.zeros(4)})


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_file_with_code_is_refused_before_the_code_runs(tmp_path):
    (tmp_path / "history").mkdir()
    values = np.array([Payload(str(tmp_path / "made"))] * 4, dtype=object)
    np.savez(tmp_path / "history" / "epoch-001.npz", weight=values)
    with pytest.raises(UserError, match=r"epoch-001\.npz: cannot be read"):
        read_history(tmp_path, {"weight": np.zeros(4)})
    assert not (tmp_path / "made").exists()


def test_other_callbacks_and_an_average_that_is_not_made_yet_are_passed_over(tmp_path):
    module = SimpleNamespace(network=Network())
    history = History(tmp_path / "deep" / "history", every_n_epochs=1)
    trainer = trainer_at(0, 0, [history, Average(0.9)])
    history.on_train_start(trainer, module)
    history.on_train_epoch_end(trainer, module)
    like = arrays(module.network)
    (_, before), (_, after) = read_history(tmp_path / "deep", like)
    assert np.array_equal(before, after)


def test_one_process_alone_writes(tmp_path):
    callback = History(tmp_path / "history", every_n_epochs=1)
    trainer = trainer_at(0, 0)
    trainer.is_global_zero = False
    callback.on_train_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    assert not (tmp_path / "history").exists()
