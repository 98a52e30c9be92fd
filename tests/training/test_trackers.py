"""What a run directory keeps of its tracker runs, without a tracker."""

import json

import pytest
from launch import TWO_STEPS
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger

from cnnbp.config.hydra_hooks import run_label
from cnnbp.errors import UserError
from cnnbp.runs.run_record import RunRecord
from cnnbp.training import trackers
from cnnbp.training.trackers import Kind, make_loggers


class Stub(CSVLogger):
    def __init__(self, save_dir, run_id=None):
        super().__init__(save_dir)
        self.run_id = run_id


def test_a_missing_package_is_named_before_anything_is_created(tmp_path, train):
    with pytest.raises(SystemExit, match=r"logger.mlflow: .* pip install 'cnnbp\[mlflow\]'"):
        train(*TWO_STEPS, "name=one", "logger=[csv,mlflow]")
    assert not (tmp_path / "outputs/one").exists()


def test_a_tracker_goes_on_with_the_run_that_the_directory_names(tmp_path, monkeypatch):
    target = f"{__name__}.Stub"
    monkeypatch.setitem(trackers.KINDS, target, Kind("yaml", "run_id"))
    config = OmegaConf.create(
        {
            "run_dir": str(tmp_path),
            "logger": {"one": {"_target_": target, "save_dir": str(tmp_path)}, "gone": None},
        }
    )
    (fresh,) = make_loggers(config)
    assert fresh.run_id is None
    (tmp_path / "trackers.json").write_text(json.dumps({"yaml": "abc"}))
    (continued,) = make_loggers(config)
    assert continued.run_id == "abc"
    config.logger.one.wrong = 1
    with pytest.raises(UserError, match=r"logger=yaml: .*; .* remove it from trackers.json"):
        make_loggers(config)


def test_hyperparameters_reach_a_logger_of_ones_own(tmp_path, train):
    train(
        *TWO_STEPS,
        "name=one",
        "~logger.tensorboard",
        "+logger.mine._target_=pytorch_lightning.loggers.CSVLogger",
        "+logger.mine.save_dir=${run_dir}",
        "callbacks=none",
        "optimizer.lr=0.25",
    )
    (file,) = (tmp_path / "outputs/one").glob("**/hparams.yaml")
    assert "learning_rate: 0.25" in file.read_text()
    assert RunRecord(tmp_path / "outputs/one").trackers == {}


def test_a_run_is_called_by_its_place_below_outputs():
    assert run_label("/home/me/outputs/grid/seed=1") == "grid/seed=1"
    assert run_label("elsewhere/run") == "elsewhere/run"
    assert len(run_label("outputs/" + "x" * 300)) == 128
