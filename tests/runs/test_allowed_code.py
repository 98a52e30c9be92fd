"""What a run directory may run: ours, the user's own below the current directory, the trusted."""

import sys

import pytest
from omegaconf import OmegaConf

from cnnbp.errors import UserError
from cnnbp.runs import allowed_code
from cnnbp.runs.allowed_code import refuse_unknown_code
from cnnbp.runs.run_record import RunRecord

CODE = """\
import os
from pathlib import Path

from torch import nn

Path("was-run").touch()


class Net(nn.Linear):
    pass


def build():
    return nn.Flatten()
"""


def part(target):
    return OmegaConf.create(
        {"network": {"_target_": "torch.optim.SGD", "x": [{"_target_": target}]}}
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a run in `outputs/run`, whose modules can be imported."""
    folder = tmp_path / "here"
    (folder / "outputs/run").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(allowed_code, "trusted", set())
    yield folder
    written = {path.stem for path in folder.iterdir()}
    for name in list(sys.modules):
        if name.partition(".")[0] in written:
            del sys.modules[name]


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CODE)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "cnnbp.runs.run_directory.shutil.rmtree",
        "cnnbp.data.augment.torch.load",  # a module has what it imports
        "torch.optim.Optimizer.load_state_dict.__globals__",
        "torch.hub.load",
        "cnnbp.modelx.Network",
        "cnnbp.model.network.Nothing",
        "torch.nn.functional.relu",  # no component
        "torch.nn.modules.module.warnings.warn",
        "cnnbp.runs.run_directory.RunDirectory",
    ],
)
def test_code_that_is_not_known_is_refused(here, target):
    with pytest.raises(UserError, match="which is not allowed here"):
        refuse_unknown_code(RunRecord(here / "outputs/run"), part(target))
    # nor where nothing of it is built, and whatever is trusted
    allowed_code.trusted.update(["os", "builtins", "cnnbp", "torch"])
    with pytest.raises(UserError, match="which is not allowed here; no run of this project"):
        refuse_unknown_code(RunRecord(here / "outputs/run"), part(target), is_built=False)


@pytest.mark.parametrize(
    "target",
    [
        "own_net.Net",
        "own_net.build",
        "own_package.deep.net.Net",
        "torch.nn.Linear",
        "cnnbp.views.export.Deployed",  # a component of this project, wherever it is
        "torchmetrics.classification.MulticlassF1Score",
    ],
)
def test_own_code_and_components_are_allowed(here, target):
    write(here / "own_net.py")
    # a folder of modules needs no __init__.py
    write(here / "own_package/deep/net.py")
    refuse_unknown_code(RunRecord(here / "outputs/run"), part(target))


@pytest.mark.parametrize("target", ["own_net.os.system", "own_net.Path", "own_net.nn.Flatten"])
def test_what_an_own_module_imports_is_refused(here, target):
    write(here / "own_net.py")
    with pytest.raises(UserError, match="which is not allowed here"):
        refuse_unknown_code(RunRecord(here / "outputs/run"), part(target))


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("outputs/run/payload.py", "outputs.run.payload.Net"),
        ("outputs/payload.py", "outputs.payload.Net"),  # beside the run
        (".venv/lib/site-packages/elsewhere/net.py", "elsewhere.net.Net"),
        ("../other/far_net.py", "far_net.Net"),
        ("../other/far/net.py", "far.net.Net"),
        ("not_there.txt", "not_there.Net"),
    ],
)
def test_other_code_is_refused_before_it_is_imported(here, monkeypatch, file, target):
    write(here / file)
    for folder in (here / ".venv/lib/site-packages", here / "../other"):
        monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError, match=f"would run {target}, which is not allowed here"):
        refuse_unknown_code(RunRecord(here / "outputs/run"), part(target))
    assert not (here / "was-run").exists()


def test_a_run_in_the_current_directory_itself_brings_no_code(here):
    write(here / "own_net.py")
    with pytest.raises(UserError, match="--trust own_net"):
        refuse_unknown_code(RunRecord(here), part("own_net.Net"))


def test_a_trusted_package_is_allowed_and_the_refusal_names_the_option(here, monkeypatch):
    write(here / "../other/far_net.py")
    monkeypatch.syspath_prepend(str(here / "../other"))
    record = RunRecord(here / "outputs/run")
    with pytest.raises(UserError, match="if you know its code, give --trust far_net"):
        refuse_unknown_code(record, part("far_net.Net"))
    # not needed where nothing is built
    refuse_unknown_code(record, part("far_net.Net"), is_built=False)
    allowed_code.trusted.add("far_net")
    refuse_unknown_code(record, part("far_net.Net"))
    # still not what it imports
    with pytest.raises(UserError, match="which is not allowed here"):
        refuse_unknown_code(record, part("far_net.os.system"))
