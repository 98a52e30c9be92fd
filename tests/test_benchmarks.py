"""No time is asserted here: a test machine is too busy for that."""

import io
import json
import math
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from paths import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import FLOAT32, NO_DROPOUT, ON_CPU, gpu, plain
from benchmarks.gpu_parts import captured
from benchmarks.ours import objects
from benchmarks.tables import summarise, tables
from benchmarks.tutorial import Tutorial
from benchmarks.worker import main


def benchmark(*arguments):
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--steps=1",
        "--rounds=1",
        "--threads=1",
        "--accelerator=cpu",
    ]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def check_files(directory, names):
    results = json.loads((directory / "results.json").read_text())
    assert list(results["variants"]) == names
    for variant in results["variants"].values():
        speed = variant["samples_per_second"]
        assert 0 < speed["min"] == speed["median"] == speed["max"] < math.inf
        assert 0 < variant["peak_mb"] < math.inf
    assert all(0 < ratio["median"] < math.inf for ratio in results["ratios"])
    assert (directory / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_measures_prints_stores_and_draws(tmp_path):
    files = f"--json={tmp_path}/results.json", f"--plot={tmp_path}/bars.png"
    done = benchmark("--only=a,d", "--markdown", *files)
    assert done.returncode == 0, done.stderr
    check_files(tmp_path, ["a", "d"])
    assert done.stdout.count("\n| d / a ") == 2  # speed and memory


@pytest.mark.slow
def test_the_program_with_all_variants(tmp_path):
    done = benchmark(f"--json={tmp_path}/results.json", f"--plot={tmp_path}/bars.png")
    assert done.returncode == 0, done.stderr
    check_files(tmp_path, list(ON_CPU))


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--only=a,z", "no variant 'z'; choose from a,b,c,d,d0,e,f,g,h"), ("--rounds=0", "above 0")],
)
def test_a_mistaken_argument_is_named(argument, words):
    done = benchmark(argument)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU here")
def test_a_variant_that_fails_says_why():
    done = benchmark("--only=a", "--accelerator=gpu")
    assert done.returncode == 1
    assert "torch finds no GPU here" in done.stderr
    assert "Traceback" not in done.stderr


# to compile f takes longer than all the others
COMPILED = pytest.param("f", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [COMPILED if name == "f" else name for name in ON_CPU])
def test_each_variant_answers_for_its_segments(name, tmp_path, monkeypatch):
    answers = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n2\n"))
    monkeypatch.setattr(sys, "stdout", answers)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # for the bars
    with pytest.raises(SystemExit):
        main(name, str(tmp_path / name), "cpu")
    segments = [json.loads(line) for line in answers.getvalue().splitlines()][
        1:
    ]  # the first says that it is ready
    assert len(segments) == 2
    assert all(0 < segment["seconds"] < math.inf for segment in segments)


# torch's BatchNorm adds up channels-last tensors one by one: the gradients move by up to 3e-3
@pytest.fixture(
    scope="module", params=[("false", 1e-6), ("true", 1e-4)], ids=["contiguous", "channels_last"]
)
def our_step(request, tmp_path_factory):
    """The batch, the loss and the parameters before and after the first step of training."""
    channels_last, tolerance = request.param
    seen = {"tolerance": {"rtol": 1e-5, "atol": tolerance}}

    class Spy(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            images, labels = batch
            prepared = trainer.datamodule.prepare(images)
            seen.update(batch=(prepared, labels), before=values(module.network))

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.update(loss=outputs["loss"].detach(), after=values(module.network))

    settings = [FLOAT32, NO_DROPOUT, f"model.channels_last={channels_last}"]
    settings += [
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=1",
        "logger=none",
        "~callbacks.board",
    ]
    data, model, trainer = objects("cpu", tmp_path_factory.mktemp("ours"), settings)
    trainer.callbacks.append(Spy())
    trainer.fit(model, data)
    return seen


def values(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def prepare(network, parameters):
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
    with torch.no_grad():
        for own, given in zip(network.parameters(), parameters, strict=True):
            own.copy_(given)


def test_the_plain_loop_does_the_same_step(our_step):
    network = plain.network()
    prepare(network, our_step["before"])
    loss = plain.step(network, plain.optimizer(network), *our_step["batch"])
    torch.testing.assert_close(loss.detach(), our_step["loss"])
    torch.testing.assert_close(values(network), our_step["after"], **our_step["tolerance"])


def test_the_tutorial_does_the_same_step(our_step, tmp_path):
    module = Tutorial()
    prepare(module.model, our_step["before"])
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(TensorDataset(*our_step["batch"]), batch_size=128))
    torch.testing.assert_close(trainer.callback_metrics["train_loss"], our_step["loss"])
    torch.testing.assert_close(values(module), our_step["after"], **our_step["tolerance"])


def test_the_plain_loop_sees_the_same_images(tmp_path):
    data, *_ = objects("cpu", tmp_path / "ours", ["~callbacks.board"])
    data.setup("fit")
    ours = (data.prepare(data.splits["train"][0][:128]), data.splits["train"][1][:128])
    batch = next(iter(DataLoader(plain.Digits(), batch_size=128)))
    for theirs, mine in zip(batch, ours, strict=True):
        torch.testing.assert_close(theirs, mine)
    assert len(plain.Digits()) == 60_000


def test_ratios_are_taken_round_by_round():
    def answers(*seconds):
        return [
            {"seconds": s, "peak_mb": 100, "form": "32-true", "device": "cpu", "threads": 1}
            for s in seconds
        ]

    results = summarise({"a": answers(3, 6, 9), "c": answers(1, 3, 2)}, steps=10)
    (ratio,) = results["ratios"]
    assert (ratio["of"], ratio["over"], ratio["reached"]) == ("c", "a", True)
    assert [ratio[key] for key in ("min", "median", "max")] == [2, 3, 4.5]
    assert results["variants"]["a"]["samples_per_second"]["median"] == pytest.approx(1280 / 6)
    shapes = {
        line.count("|") for line in tables(results, markdown=True).splitlines() if "|" in line
    }
    assert shapes == {7, 8}


def test_parity_on_a_gpu_cannot_be_that_of_an_eager_step():
    assert captured("gpu") == "trainer.graph=true"


def test_a_part_has_the_time_that_is_left():
    assert gpu.run_part("step", None, limit=0) == {"failed": "there was no time left"}
    # those that have not had their turn are left out, whatever the first ones took
    assert max(gpu.LIMITS.values()) < gpu.TOTAL < 480
    assert gpu.QUICK_TOTAL < 100


@pytest.mark.slow
def test_all_checks_of_a_gpu_are_rehearsed_on_the_cpu(tmp_path):
    file = tmp_path / "answers.json"
    parts = ["parity", "step", "baseline", "fast", "resume", "precisions"]
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--accelerator=cpu"]
    for part in parts:
        own = ["--only", part, "--output", str(file)]
        done = subprocess.run([*command, *own], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers = json.loads(file.read_text())[part]
        assert "failed" not in answers, answers
        if part == "parity":
            assert answers == {"muon": "graph same bits, eager again same bits"}
