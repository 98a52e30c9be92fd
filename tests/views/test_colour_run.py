"""Colour images of three classes and 32 pixels through training and every command.

One short run on a folder of pictures, which is gone afterwards for some of them.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from launch import train_in
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnbp.data.datasets import DATASETS
from cnnbp.training.restore import restore
from cnnbp.views.export import export

pytest.importorskip("matplotlib")

CLASSES = ("ash", "beech", "cedar wood")
OPTIONS = (
    *("data=folder", "data.root=woods", "data.val_size=15", "data.batch_size=15", "dropout=none"),
    *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=6", "optimizer=adamw"),
    *("optimizer.lr=0.005", "augment=affine"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the pictures, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("colour")
    random = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        (folder / "woods" / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, label] += 120
            Image.fromarray(pixels).save(folder / "woods" / name / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_in(folder, "name=run", *OPTIONS)
    return folder


@pytest.fixture
def command(folder, cnnbp, monkeypatch, capsys):
    """Run a command in the folder; return its lines."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def run(*arguments):
        capsys.readouterr()
        assert cnnbp(*arguments) == 0
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def without_pictures(folder, command):
    """The folder of pictures is gone, but for a picture of the third class."""
    shutil.move(folder / "woods", folder / "moved")
    yield "moved/cedar wood/3.png"
    shutil.move(folder / "moved", folder / "woods")


def test_the_run_has_learnt_the_colours(folder):
    result = json.loads((folder / "outputs/run/result.json").read_text())
    # with 3 input channels and 3 logits: 800 * 3 + 32 and 144 * 3 + 3 weights
    assert result["parameters"] == 19_866 + 2 * 800 - 7 * 145
    assert result["val_accuracy"] > 0.8


def test_evaluate(folder, command):
    first, _, *rows = command("evaluate", "outputs/run", "--plot", "plot.png", "--tta")
    result = json.loads((folder / "outputs/run/result.json").read_text())
    assert f"{round(18 * result['accuracy'])}/18" in first
    assert [re.split("  +", row.strip())[:2] for row in rows[:3]] == [[c, "6"] for c in CLASSES]
    assert (folder / "plot.png").exists()


def test_predict_without_the_data_set(command, without_pictures):
    head, row = command("predict", "outputs/run", without_pictures)
    assert all(name in head for name in CLASSES)
    assert without_pictures in row


def test_a_picture_is_prepared_as_in_training(folder, command):
    _, data, _ = restore("outputs/run")
    data.setup("fit")
    pixels = data.as_pixels(torch.cat([data.splits["train"][0], data.splits["val"][0]]))
    close = {"rtol": 0, "atol": 1e-5}
    prepared = data.normalise(pixels)
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), **close)
    torch.testing.assert_close(prepared.std((0, 2, 3), correction=0), torch.ones(3), **close)
    image = data.read_picture("woods/cedar wood/3.png")
    stored = torch.cat([images for images, _ in data.splits.values()])
    assert (stored == image).flatten(1).all(1).sum() == 1


def test_explain(folder, command, without_pictures):
    table = command("explain", "outputs/run", without_pictures)
    assert "predicted" in table[0]
    assert any("3x32x32" in line for line in table)
    with Image.open(folder / "outputs/run/explain.png") as picture:
        image = np.asarray(picture.convert("RGB"), int)[200:560, 60:250]
    # in its colours: it is blue
    assert image[..., 2].mean() > image[..., 0].mean() + 20


def test_the_exported_weights_are_loaded_as_the_card_says(folder, command):
    path = export("outputs/run", "safetensors")
    card = path.with_name(f"{path.name}.md").read_text()
    assert "32 x 32 pixels, in colour" in card
    assert ", ".join(CLASSES) in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(snippet[1].replace(path.name, str(path)), names)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    _, data, model = restore("outputs/run")
    with torch.no_grad():
        logits = names["network"]((images / 255 - names["mean"]) / names["std"])
        torch.testing.assert_close(logits, model(data.prepare(images)), rtol=1e-4, atol=1e-4)


def test_export_to_onnx(folder, command):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(export("outputs/run", "onnx"))
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    _, data, model = restore("outputs/run")
    with torch.no_grad():
        expected = model(data.prepare(torch.from_numpy(images)))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_report(folder, command):
    command("report", "outputs/run")
    page = (folder / "outputs/run/report.html").read_text()
    assert "18 test images" in page
    assert "cedar wood" in page


def test_the_page_says_what_it_cannot_draw(command):
    with pytest.raises(SystemExit, match="error: outputs/run: the page draws grey images of 28"):
        command("page", "outputs/run")


def test_summary_and_a_fresh_network(command):
    lines = command("summary", "data=folder", "data.root=woods")
    assert any("[-1, 32, 30, 30]" in line and "2,432" in line for line in lines)
    assert "Input size (MB): 0.01" in lines
    table = command("explain", "--untrained", "data=folder", "data.root=woods", "--index", "3")
    assert any("3x32x32" in line for line in table)


def test_the_leaderboard_groups_over_folds(folder, command):
    for fold in (0, 1):
        copy = folder / "outputs" / f"fold-{fold}"
        shutil.copytree(folder / "outputs/run", copy, ignore=shutil.ignore_patterns("*.ckpt"))
        config = copy / ".hydra" / "config.yaml"
        text = config.read_text().replace("folds: null", "folds: 2")
        config.write_text(text.replace("fold: null", f"fold: {fold}"))
    head, *rows = command("leaderboard", "outputs", "--group")
    cells = [dict(zip(re.split("  +", head), re.split("  +", row), strict=False)) for row in rows]
    assert sorted(cell["seeds"] for cell in cells) == ["1", "1"]
    (group,) = [row for row in rows if re.search("  1 +2 +2 ", row)]
    assert "val_accuracy" in group


def test_tensorboard_names_the_classes(folder):
    events = EventAccumulator(str(folder / "outputs/run"), {"tensors": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {f"precision_recall/{name}" for name in CLASSES} <= set(tags["tensors"])
    assert "features/conv1.0" in tags["images"]
    assert tags["graph"]


def test_a_run_on_a_folder_that_has_changed_is_not_continued(folder, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        shutil.copytree(folder / "woods", tmp_path / "woods")
        shutil.copytree(folder / "outputs/run", tmp_path / "outputs/run")
        (tmp_path / "outputs/run/result.json").unlink()
        train_in(tmp_path, "name=run", *OPTIONS)
        assert (tmp_path / "outputs/run/result.json").read_text()
        (tmp_path / "outputs/run/result.json").unlink()
        shutil.rmtree(tmp_path / "woods" / "ash")
        with pytest.raises(SystemExit, match="error: data.root=woods: has changed since this run"):
            train_in(tmp_path, "name=run", *OPTIONS)


def test_a_network_that_does_not_fit_the_data_set_is_one_line(folder, command, tmp_path):
    for key, words in {
        "channels": r"model.network: Network fails on images \(2, 3, 32, 32\)",
        "classes": r"model.network: Network maps images .* to \(2, 1\); must be logits \(2, 3\)",
    }.items():
        with pytest.raises(SystemExit, match=f"error: {words}"):
            train_in(folder, "name=other", *OPTIONS, f"+model.network.{key}=1")
        assert not (folder / "outputs/other").exists()


def test_every_named_data_set_has_facts_that_agree():
    for dataset in DATASETS.values():
        assert len(dataset.mean) == len(dataset.std) == dataset.channels
        assert dataset.facts["class_names"] == list(dataset.class_names)
