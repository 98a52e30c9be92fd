"""The command that explains one image: its trace as a table, a picture and a film."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from cnnbp.config.compose import compose
from cnnbp.data import user_pictures
from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.training.restore import restore
from cnnbp.views.trace import trace_image
from cnnbp.views.trace_film import animate_trace
from cnnbp.views.trace_picture import draw_trace
from cnnbp.views.trace_table import trace_table

# of the test set
DEFAULT_IMAGE = 7


def explain(
    paths: Sequence[str],
    untrained: Sequence[str] | None = None,
    index: int | None = None,
    checkpoint: str = "last",
    plot: str | None = None,
    animate: str | None = None,
) -> None:
    """Follow a picture, or a test image, through a run's network or a fresh one.

    Args:
        paths: a run directory, where no fresh network is wanted, then perhaps a picture.
        untrained: overrides of a fresh network.
        index: of a test image.
        checkpoint: "last" or "best".
        plot: file of the picture; by default `explain.png` in the run directory.
        animate: file of the film, a GIF.

    Raises:
        UserError: neither a run nor a fresh network is named, or two images are.
    """
    paths = list(paths)
    if untrained is not None:
        source, folder = "untrained", Path()
        config = compose(list(untrained))
        torch.manual_seed(config.seed)
        data, network = instantiate(config.data), instantiate(config.model.network)
    elif paths:
        source = paths.pop(0)
        folder = Path(source)
        config, data, model = restore(source, checkpoint)
        network = model.network
    else:
        raise UserError("explain: name a run directory, outputs/NAME, or give --untrained")
    name, image, label = _chosen_image(data, paths, index)
    title = f"{source}, {name}"
    plot = plot or str(folder / "explain.png")
    explain_image(network, image, data.prepare, config.optimizer.lr, title, label, plot, animate)


def _chosen_image(
    data: DataModule, pictures: Sequence[str], index: int | None
) -> tuple[str, Tensor, int | None]:
    """The name of an image, its pixels uint8 (28, 28), and its label where that is known."""
    if len(pictures) > 1:
        raise UserError(f"explain: takes one picture, not {len(pictures)}")
    if pictures and index is not None:
        raise UserError("explain: takes a picture or --index, not both")
    if pictures:
        return pictures[0], user_pictures.load(pictures[0]), None
    if index is None:
        index = DEFAULT_IMAGE
    image, label = data.test_image(index)
    return f"test image {index}", image, label


def explain_image(
    network: nn.Module,
    image: Tensor,
    prepare: Callable[[Tensor, torch.dtype], Tensor],
    learning_rate: float,
    title: str,
    label: int | None = None,
    plot: str | None = None,
    film: str | None = None,
) -> None:
    """Print the trace of an image as a table; also draw and film it.

    Args:
        image: (28, 28), uint8.
        prepare: maps images (1, 28, 28) to the network's input, of the dtype that it is given.
        learning_rate: of the step whose size the table shows.
        title: what the image is.
        label: without one the prediction is taken for it.
        plot, film: files to write.

    Raises:
        UserError: the film is not to be a GIF, or matplotlib is missing or cannot write the
            picture.
    """
    if film and Path(film).suffix.lower() != ".gif":
        raise UserError(f"{film}: the film is a GIF; name it FILE.gif")
    trace, taken = trace_image(network, prepare(image[None], torch.float64), label, learning_rate)
    read = int(trace[-2].output.argmax())
    known = "unknown, so the prediction is taken for it" if label is None else label
    title += f": read as {read}, label {known}"
    print(f"{title}\n{trace_table(trace, taken)}")
    if plot:
        draw_trace(trace, taken, plot, title)
        print(plot)
    if film:
        animate_trace(trace, taken, film, title)
        print(film)
