"""Which digit is on a picture."""

import sys
from collections.abc import Sequence

import torch

from cnnbp.data import user_pictures
from cnnbp.errors import UserError
from cnnbp.training.restore import restore


def predict(directory: str, files: Sequence[str], checkpoint: str = "last") -> int:
    """Print for each picture the digit and the ten probabilities; return how many could not be read."""
    _, data, model = restore(directory, checkpoint)
    width = max(map(len, files))
    print(f"{'file':{width}}  digit  " + "  ".join(f" p({digit})" for digit in range(10)))
    errors = []
    for file in files:
        try:
            image = user_pictures.load(file)
        except UserError as error:
            errors.append(f"error: {error}")
            continue
        with torch.inference_mode():
            probabilities = model(data.prepare(image[None])).softmax(1)[0]
        shares = "  ".join(f"{share:.3f}" for share in probabilities)
        print(f"{file:{width}}  {int(probabilities.argmax()):5}  {shares}")
    if errors:
        print(*errors, sep="\n", file=sys.stderr)
    return len(errors)
