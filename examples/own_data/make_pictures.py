"""Draw a small data set of fruit, which is told apart by its colour: a folder of pictures a class.

`python make_pictures.py DIR` makes DIR/lemon, DIR/lime and DIR/plum.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PICTURES = 100
# in pixels; wider than high, as photographs are
WIDTH, HEIGHT = 48, 40
# deviation of each pixel, in grey levels
NOISE = 25
# the range of hues of each fruit, in degrees
HUES = {"lemon": (42, 66), "lime": (60, 110), "plum": (270, 330)}


def draw(random: np.random.Generator, hues: tuple[int, int]) -> Image.Image:
    """Draw a fruit of a random hue, size and place on a ground of a random grey."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), f"hsl(0, 0%, {random.integers(10, 90)}%)")
    hue, saturation = random.uniform(*hues), random.integers(50, 100)
    colour = f"hsl({hue}, {saturation}%, {random.integers(30, 60)}%)"
    width, height = random.uniform(8, 14), random.uniform(8, 14)
    x, y = random.uniform(14, WIDTH - 14), random.uniform(14, HEIGHT - 14)
    ImageDraw.Draw(picture).ellipse((x - width, y - height, x + width, y + height), colour)
    pixels = np.asarray(picture) + random.normal(0, NOISE, (HEIGHT, WIDTH, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main(root: Path) -> None:
    """Fill a folder."""
    random = np.random.default_rng(1)
    for name, hues in HUES.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(PICTURES):
            draw(random, hues).save(root / name / f"{number:02}.png")
    print(f"{len(HUES) * PICTURES} pictures in {root}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
