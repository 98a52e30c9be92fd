"""The class that a network reads from pictures."""

import sys
from collections.abc import Sequence

import torch

from cnnbp.errors import UserError
from cnnbp.training.restore import restore


def predict(directory: str, files: Sequence[str], checkpoint: str = "last") -> int:
    """Print the class and the probabilities of each picture.

    Returns:
        The exit status: 1 where a picture could not be read.
    """
    _, data, model = restore(directory, checkpoint)
    width = max(map(len, files))
    names = data.dataset.class_names
    columns = "  ".join(f" p({name})" for name in names)
    has_head = False
    errors = []
    for file in files:
        try:
            image = data.read_picture(file)
        except UserError as error:
            errors.append(f"error: {error}")
            continue
        if not has_head:
            print(f"{'file':{width}}  class  {columns}")
            has_head = True
        with torch.inference_mode():
            probabilities = model(data.prepare(image[None])).softmax(1)[0]
        shares = "  ".join(f"{share:.3f}" for share in probabilities)
        print(f"{file:{width}}  {names[int(probabilities.argmax())]:>5}  {shares}")
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0
