"""Generated pictures, read by the published recipe after three epochs."""

import pytest
import torch
from generated_pictures import FONTS, scribble, several, written
from launch import train_in

from cnnbp.data.user_pictures import find_digits, largest
from cnnbp.training.restore import restore
from cnnbp.views.likeness import Likeness

pytestmark = pytest.mark.slow

# those that no font of these draws like a digit
LETTERS = "ACEFGHJKMNPQRTUVWXYadefhkmnprtuvwxy"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reading")
    train_in(directory, "name=run", "trainer.max_epochs=3")
    _, data, model = restore(directory / "outputs" / "run")
    data.setup("test")
    return data, model.cpu()


@torch.inference_mode()
def logits_of(run, images):
    data, model = run
    return torch.cat([model(data.prepare(batch)) for batch in images.split(250)])


def read(run, digits):
    pixels = torch.stack([digit.pixels for digit in digits])
    return pixels, logits_of(run, pixels)


def test_95_of_100_pictures_are_read(run):
    missed = []
    for text, kind, picture in several(300):
        _, logits = read(run, find_digits(picture))
        found = "".join(map(str, logits.argmax(1).tolist()))
        if found != text:
            missed.append((text, found, kind))
    print(f"{300 - len(missed)} of 300 read; not {missed}")
    assert len(missed) <= 15


def test_letters_and_scribbles_are_doubted_and_digits_are_not(run):
    data, _ = run
    images, labels = data.splits["train"]
    likeness = Likeness(images, labels)
    # what the logits alone would tell, at the same share of training images
    energies = logits_of(run, images[::20]).logsumexp(1)
    lowest_energy = energies.quantile(0.02)
    kinds = {
        "letters": [written(letter, font, 120) for font in FONTS for letter in LETTERS],
        "scribbles": [scribble(seed) for seed in range(300)],
        "digits": [written(digit, font, 120) for font in FONTS for digit in "0123456789"],
    }
    shares = {}
    for kind, pictures in kinds.items():
        pixels, logits = read(run, [largest(find_digits(picture)) for picture in pictures])
        doubted = likeness.measure(pixels, logits.argmax(1)) < likeness.doubtful_below
        shares[kind] = doubted.float().mean().item()
        by_energy = (logits.logsumexp(1) < lowest_energy).float().mean()
        print(f"{kind}: {shares[kind]:.1%} doubted; by the energy of the logits {by_energy:.1%}")
    assert shares["letters"] > 0.65
    assert shares["scribbles"] > 0.65
    assert shares["digits"] < 0.06
