"""The command that explains one image: its trace as a table, a picture and a film."""

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from cnnbp.config.compose import compose
from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.training.data_facts import with_facts
from cnnbp.training.restore import restore
from cnnbp.views.trace import Trace, trace_image
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
        data = instantiate(config.data)
        network = instantiate(with_facts(config.model, data.dataset).network)
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
    pixels = data.prepare(image[None], torch.float64)
    rate = OmegaConf.select(config, "optimizer.lr")
    trace = trace_image(network, pixels, label, rate, data.dataset.class_names)
    explain_trace(trace, title, label is not None, plot, animate)


def _chosen_image(
    data: DataModule, pictures: Sequence[str], index: int | None
) -> tuple[str, Tensor, int | None]:
    """The name of an image, its pixels (H, W) or (C, H, W), uint8, and its label where known."""
    if len(pictures) > 1:
        raise UserError(f"explain: takes one picture, not {len(pictures)}")
    if pictures and index is not None:
        raise UserError("explain: takes a picture or --index, not both")
    if pictures:
        return pictures[0], data.read_picture(pictures[0]), None
    if index is None:
        index = DEFAULT_IMAGE
    image, label = data.test_image(index)
    return f"test image {index}", image, label


def explain_trace(
    trace: Trace,
    title: str,
    label_is_known: bool = True,
    plot: str | None = None,
    film: str | None = None,
) -> None:
    """Print a trace as a table; also draw and film it.

    Args:
        title: what the image is.
        plot, film: files to write.

    Raises:
        UserError: the film is not to be a GIF, or matplotlib is missing or cannot write the
            picture.
    """
    if film and Path(film).suffix.lower() != ".gif":
        raise UserError(f"{film}: the film is a GIF; name it FILE.gif")
    predicted = trace.class_names[trace.prediction]
    title += f": predicted {predicted}, "
    if label_is_known:
        title += f"true class {trace.class_names[trace.label]}"
    else:
        title += "true class unknown (the loss is that of the prediction)"
    print(f"{title}\n{trace_table(trace)}")
    if plot:
        draw_trace(trace, plot, title)
        print(plot)
    if film:
        animate_trace(trace, film, title)
        print(film)
