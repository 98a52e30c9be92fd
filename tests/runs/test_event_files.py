"""Event files of several processes, joined: TensorBoard reads the same curves."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

from cnnbp.runs.event_files import merge_event_files


def write(directory, number, steps):
    """What a process leaves that begins at the first of the steps."""
    with SummaryWriter(str(directory), filename_suffix=".new") as writer:
        start = Event(step=steps[0], session_log=SessionLog(status=SessionLog.START))
        writer.file_writer.add_event(start)
        for step in steps:
            writer.add_scalar("loss", 10 * number + step, step)
    (path,) = directory.glob("*.new")
    return path.rename(directory / f"events.out.tfevents.{number}")


def curve(directory):
    board = EventAccumulator(str(directory)).Reload()
    return [(event.step, event.value) for event in board.Scalars("loss")]


@pytest.fixture
def killed(tmp_path):
    """The files of three processes, each killed after its last save, and that of a test."""
    files = [write(tmp_path, 1, range(5)), write(tmp_path, 2, range(3, 7)), write(tmp_path, 3, [6])]
    whole = files[0].read_bytes()
    for path, rest in zip(files, (whole[:7], whole[:50], bytes(30)), strict=True):
        path.write_bytes(path.read_bytes() + rest)
    (tmp_path / "events.out.tfevents.4.test").write_bytes(whole)
    return tmp_path


def test_merged_files_show_the_same_points_whatever_a_kill_left_behind(killed):
    merge_event_files(killed)
    assert sorted(path.name for path in killed.iterdir()) == [
        "events.out.tfevents.1",
        "events.out.tfevents.4.test",
    ]
    (killed / "events.out.tfevents.4.test").unlink()
    assert curve(killed) == [(0, 10), (1, 11), (2, 12), (3, 23), (4, 24), (5, 25), (6, 36)]


def test_a_kill_before_the_merged_files_are_removed_changes_nothing(killed, monkeypatch):
    (killed / "events.out.tfevents.4.test").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        merge_event_files(killed)
    assert len(list(killed.glob("events.*"))) == 3
    merge_event_files(killed)
    (path,) = killed.iterdir()
    assert path.name == "events.out.tfevents.1"
    assert curve(killed) == [(0, 10), (1, 11), (2, 12), (3, 23), (4, 24), (5, 25), (6, 36)]
