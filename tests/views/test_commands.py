"""Evaluate and predict on a run that was really trained, for a few seconds."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_pictures import framed, scribble, written
from launch import train_in
from PIL import Image, ImageDraw, ImageFont

from cnnbp.data.datasets import MNIST
from cnnbp.data.user_pictures import prepare
from cnnbp.training.restore import restore
from cnnbp.views.evaluate import average_over_shifts, class_table
from cnnbp.views.inference import evaluate_test_set

matplotlib = pytest.importorskip("matplotlib")

FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono-Bold")
SIZES = (16, 40, 150)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 300 steps, made once for this file."""
    directory = tmp_path_factory.mktemp("trained")
    options = "trainer=cpu trainer.max_epochs=1 trainer.limit_train_batches=300 data.batch_size=64"
    # the precision is that of what its predictions are compared with
    options += " dropout=none trainer.precision=32-true"
    recipe = "optimizer=adamw optimizer.lr=0.005 scheduler=one_cycle augment=affine"
    train_in(directory, "name=run", *options.split(), *recipe.split())
    return directory / "outputs" / "run"


def draw(digit, font, size, path):
    face = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"), size
    )
    image = Image.new("L", (2 * size, 2 * size), 255)
    ImageDraw.Draw(image).text((size // 2, size // 3), str(digit), font=face, fill=0)
    image.save(path)


def test_evaluate_gives_the_numbers_of_the_run(trained, cnnbp, capsys):
    assert cnnbp("evaluate", str(trained)) == 0
    result = json.loads((trained / "result.json").read_text())
    line, head, *classes = capsys.readouterr().out.splitlines()
    correct = round(result["accuracy"] * 10_000)
    assert line == (
        f"Test set: Average loss: {result['loss']:.4f}, Accuracy: {correct}/10000 "
        f"({result['accuracy']:.2%})"
    )
    assert head.split()[:3] == ["class", "images", "correct"]
    counts = np.array([row.split()[:3] for row in classes], int)
    assert counts[:, 1].tolist() == MNIST.load("unused").test_labels.bincount().tolist()
    assert counts[:, 2].sum() == correct


def test_the_numbers_are_those_of_the_run_to_the_last_digit(trained):
    result = json.loads((trained / "result.json").read_text())
    evaluation = evaluate_test_set(*restore(trained))
    assert (evaluation.loss, evaluation.accuracy) == (result["loss"], result["accuracy"])
    assert evaluation.correct == round(result["accuracy"] * 10_000)


def test_the_average_over_shifts(trained):
    config, data, model = restore(trained)
    data.setup("test")
    images, _ = data.splits["test"]
    # only images whose border is empty: rolling them then moves zeros in
    inner = images[:, 1:-1, 1:-1].flatten(1).sum(1) == images.flatten(1).sum(1)
    images = images[inner][:200]
    mean = torch.zeros(200, 10)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            with torch.inference_mode():
                pixels = images.roll((down, right), (1, 2))[:, None].float()
                mean += model(data.normalise(pixels)).softmax(1) / 9
    average = average_over_shifts(config, data, model, images[:, None])
    torch.testing.assert_close(average, mean, rtol=1e-4, atol=1e-5)


def test_test_time_augmentation_is_told_apart(trained, cnnbp, capsys, monkeypatch):
    monkeypatch.setattr("cnnbp.views.evaluate.SHIFTS", ((0, 0),))
    cnnbp("evaluate", str(trained), "--tta")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert last == first.replace("Test set:", "Mean of 1 shifts by at most one pixel:")


def test_evaluate_draws_a_picture(trained, cnnbp, tmp_path):
    cnnbp("evaluate", str(trained), "--plot", "mistakes.png")
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.width > 1000
    with pytest.raises(SystemExit, match="error: mistakes.xyz: "):
        cnnbp("evaluate", str(trained), "--plot", "mistakes.xyz")


def test_the_table_names_the_classes():
    counts = torch.tensor([[5, 0, 2], [0, 0, 0], [0, 0, 3]])
    rows = [line.split() for line in class_table(counts, ["cat", "dog", "tree"]).splitlines()[1:]]
    assert rows == [
        ["cat", "7", "5", "71.43%", "tree", "(2", "times)"],
        ["dog", "0", "0", "-", "-"],
        ["tree", "3", "3", "100.00%", "-"],
    ]


def test_a_missing_checkpoint_is_one_line(trained, cnnbp):
    with pytest.raises(SystemExit, match=r"error: .*: has no best checkpoint"):
        cnnbp("evaluate", str(trained), "--checkpoint", "best")


def test_digits_of_several_fonts_and_sizes_are_read(trained, cnnbp, tmp_path, capsys):
    names = []
    for font in FONTS:
        for size in SIZES:
            for digit in range(10):
                names.append(f"{digit}-{font}-{size}.png")
                draw(digit, font, size, tmp_path / names[-1])
    assert cnnbp("predict", str(trained), *names) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == names
    probabilities = np.array([row[2:12] for row in rows], float)
    assert abs(probabilities.sum(1) - 1).max() < 0.006
    assert probabilities.argmax(1).tolist() == [int(row[1]) for row in rows]
    right = sum(row[1] == name[0] for row, name in zip(rows, names, strict=True))
    assert right >= 0.9 * len(names)


def test_an_unreadable_file_is_told_after_the_others_are_answered(trained, cnnbp, tmp_path, capsys):
    draw(7, "DejaVuSans", 40, tmp_path / "seven.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert cnnbp("predict", str(trained), "broken.png", "seven.png", "missing.png") == 1
    out, err = capsys.readouterr()
    assert re.search(r"^seven.png +7 ", out, re.MULTILINE)
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [
        "broken.png",
        "missing.png",
    ]


def test_several_digits_are_read_with_their_places(trained, cnnbp, tmp_path, capsys):
    written("718", size=(420, 200)).save(tmp_path / "three.png")
    assert cnnbp("predict", str(trained), "three.png") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["three.png", digit] for digit in "718"]
    boxes = [[int(place) for place in row[12].split(",")] for row in rows]
    for (_, _, right, _), (left, _, _, _) in pairwise(boxes):
        assert right < left


def test_what_is_unlike_a_digit_is_doubted(trained, cnnbp, tmp_path, capsys):
    """Letters that look like no digit, and scribbles; the test images are hardly doubted."""
    letters = [written(letter) for letter in "ACEFHKMNRTXadehkmnrx"]
    scribbles = [scribble(seed) for seed in range(10)]
    digits = [Image.fromarray(image.numpy()) for image in MNIST.load("unused").test_images[:100]]
    doubted = []
    for pictures in (letters, scribbles, digits):
        files = []
        for k, picture in enumerate(pictures):
            files.append(f"{k}.png")
            picture.save(tmp_path / files[-1])
        cnnbp("predict", str(trained), *files)
        rows = capsys.readouterr().out.splitlines()[1:]
        doubted.append(sum("doubtful" in row for row in rows) / len(files))
    assert doubted[0] >= 0.6
    assert doubted[1] >= 0.6
    assert doubted[2] <= 0.05


def test_show_draws_what_the_network_saw(trained, cnnbp, tmp_path, capsys):
    picture = framed(written("4"))
    picture.save(tmp_path / "four.png")
    assert cnnbp("predict", str(trained), "four.png", "--show", "seen.png") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "seen.png"
    sheet = np.asarray(Image.open(tmp_path / "seen.png").convert("L"))
    seen = np.kron(prepare(picture).numpy(), np.ones((4, 4), np.uint8))
    # the network's input, four times as large, is on the sheet as it is
    windows = np.lib.stride_tricks.sliding_window_view(sheet, seen.shape)
    assert (windows[:, :, ::8, ::8] == seen[::8, ::8]).all((2, 3)).any()


def test_show_takes_png_only(trained, cnnbp, tmp_path):
    with pytest.raises(SystemExit, match=r"error: --show seen.jpg: must end in .png"):
        cnnbp("predict", str(trained), "any.png", "--show", "seen.jpg")


def test_training_statistics_are_used_for_pictures(trained, cnnbp, tmp_path, capsys):
    """An MNIST test image given as a picture gets the class that the network gives the image
    itself.
    """
    from cnnbp.training.restore import restore

    _, data, model = restore(trained)
    images = MNIST.load("unused").test_images[:20]
    for number, image in enumerate(images):
        Image.fromarray(image.numpy()).resize((140, 140)).save(tmp_path / f"{number}.png")
    with torch.no_grad():
        wanted = model(data.normalise(images[:, None].float())).argmax(1).tolist()
    cnnbp("predict", str(trained), *(f"{number}.png" for number in range(20)))
    read = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert sum(a == b for a, b in zip(read, wanted, strict=True)) >= 19
