"""An own convolutional network and an own perceptron, through all that a run can go through."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from processes import differences, outcome
from test_own_parts import MODEL, NAMES, NETWORKS

pytestmark = pytest.mark.slow
pytest.importorskip("matplotlib")
pytest.importorskip("optuna")
pytest.importorskip("onnxruntime")

# some 40 steps of an epoch, so that there is time to kill it
SMALL = (
    *("--config-dir", "groups", "model=mine", "trainer=cpu", "trainer.max_epochs=2"),
    *("trainer.limit_train_batches=40", "data.val_size=1000", "optimizer=adamw"),
    *("scheduler=cosine", "augment=light", "average=ema", "metrics=f1"),
)
SPACE = (
    "+search.space={model.network.width: [4, 6], optimizer.lr: {low: 0.001, high: 0.01}, "
    "optimizer: null, scheduler: null, dropout: null, data.batch_size: null}"
)


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "own_networks.py").write_text(NETWORKS)
    (folder / "groups/model").mkdir(parents=True)
    model = MODEL.format(network=NAMES[request.param])
    (folder / "groups/model/mine.yaml").write_text(model)
    return folder


def start(folder, *command):
    """Start `cnnbp` as the console script does: without the current folder on its path."""
    code = "import sys; sys.path[0:1] = []; from cnnbp.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def cnnbp(folder, *command):
    process = start(folder, *command)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed


def test_everything(folder):
    # one run is killed twice, in its second epoch and at once, and one is left alone
    often = ("callbacks.checkpoints.every_n_seconds=0.05",)
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start(folder, "train", *SMALL, *often, "name=killed")
        checkpoint = folder / "outputs/killed/checkpoints/previous.ckpt"
        while process.poll() is None and not checkpoint.exists():
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
        assert process.returncode != 0
    cnnbp(folder, "train", *SMALL, *often, "name=killed")
    cnnbp(folder, "train", *SMALL, *often, "name=whole")
    killed, whole = outcome(folder / "outputs/killed"), outcome(folder / "outputs/whole")
    assert differences(killed, whole) == []

    cnnbp(folder, "train", "-m", *SMALL, "name=grid", "model.network.width=4,6", "seed=1,2")
    cnnbp(folder, "search", *SMALL, "name=study", "search.n_trials=4", SPACE)
    ranked = cnnbp(folder, "leaderboard", "outputs", "--group", "--metric", "val_f1")
    assert sum("model.network.width=" in line for line in ranked.splitlines()) >= 4

    result = json.loads((folder / "outputs/whole/result.json").read_text())
    printed = cnnbp(folder, "evaluate", "outputs/whole")
    assert f"({result['accuracy']:.2%})" in printed
    assert f"f1: {result['f1']:.4f}" in printed
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).resize((90, 90)).save(folder / "line.png")
    assert "line.png" in cnnbp(folder, "predict", "outputs/whole", "line.png")
    assert "autograd" in cnnbp(folder, "explain", "outputs/whole")
    for kind in ("onnx", "safetensors", "torch"):
        printed = cnnbp(folder, "export", "outputs/whole", "--format", kind)
        assert "on 1,000 test images" in printed
    for directory in ("whole", "grid", "study"):
        cnnbp(folder, "report", f"outputs/{directory}")
        assert (folder / "outputs" / directory / "report.html").exists()


def test_the_onnx_file_computes_what_the_run_does_without_the_network(folder, tmp_path):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "outputs/whole/model.onnx")
    program = torch.export.load(folder / "outputs/whole/model.pt2").module()
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 28, 28), np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    expected = program(torch.from_numpy(images)).detach().numpy()
    assert logits == pytest.approx(expected, abs=1e-4)
