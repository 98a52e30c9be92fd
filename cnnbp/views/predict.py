"""The classes that a network reads from pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cnnbp.errors import UserError
from cnnbp.training.restore import restore
from cnnbp.views.reading_sheet import draw_readings
from cnnbp.views.readings import Reading, likeness_of, read_picture


def predict(
    directory: str, files: Sequence[str], checkpoint: str = "last", show: str | None = None
) -> int:
    """Print the class and the probabilities of each digit on each picture.

    Args:
        show: a PNG file to draw what the network saw.

    Returns:
        The exit status: 1 where a picture could not be read.

    Raises:
        UserError: there is no such run, or the PNG file cannot be written.
    """
    if show and Path(show).suffix.lower() != ".png":
        raise UserError(f"--show {show}: must end in .png")
    _, data, model = restore(directory, checkpoint)
    likeness = likeness_of(data)
    width = max(map(len, files))
    names = data.dataset.class_names
    all_readings: dict[str, list[Reading]] = {}
    errors = []
    for file in files:
        try:
            readings = read_picture(data, model, likeness, file)
        except UserError as error:
            errors.append(f"error: {error}")
            continue
        if not all_readings:
            columns = "  ".join(f" p({name})" for name in names)
            print(f"{'file':{width}}  class  {columns}  left,top,right,bottom")
        for reading in readings:
            print(f"{file:{width}}  {_row(reading, names)}")
        all_readings[file] = readings
    for error in errors:
        print(error, file=sys.stderr)
    if show and all_readings:
        draw_readings(Path(show), all_readings, names)
        print(show)
    return 1 if errors else 0


def _row(reading: Reading, names: Sequence[str]) -> str:
    shares = "  ".join(f"{share:.3f}" for share in reading.probabilities)
    place = ",".join(map(str, reading.box)) if reading.box else "all"
    row = f"{names[reading.label]:>5}  {shares}  {place}"
    if reading.is_doubtful:
        row += f"  doubtful: unlike the training images of {names[reading.label]}"
    return row
