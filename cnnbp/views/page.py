"""A trained run as one HTML file: draw a digit, see the network at work, let it learn.

The browser computes everything itself, by the files in the folder `page`; this module gives them
the run's network, pictures and history. The page requests nothing from anywhere, which its
Content-Security-Policy enforces.
"""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor, nn

from cnnbp.data.datamodule import DataModule
from cnnbp.data.datasets import DIGITS, DataSet
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.model import backprop
from cnnbp.runs.run_record import RunRecord
from cnnbp.training.callbacks.history import read_history
from cnnbp.training.restore import restore

FOLDER = Path(__file__).with_name("page")
# each holds one idea; the first two also run in the page's worker
SCRIPTS = (
    "engine",
    "training_worker",
    "picture_ink",
    "picture_lines",
    "picture_parts",
    "picture_strokes",
    "preparation",
    "contents",
    "colours",
    "maps",
    "pad",
    "equations",
    "arithmetic",
    "inspector",
    "bars",
    "charts",
    "learning",
    "epochs",
    "journey",
    "rows",
    "picker",
    "panel",
    "weights",
    "app",
)
# bytes of the page; of a longer history the epochs that fit
LARGEST = 700_000
# images to train and to evaluate with in the page
TRAINING, HELD_OUT = 1000, 200
# test images to choose from, beside one of each class
HARDEST, RANDOM = 10, 20
# of a sprite
COLUMNS = 40
# of an image, in pixels
SIDE = 28
# of the choice of images
SEED = 1

# what a component's equations need of its module
OPTIONS = {
    "Conv2d": ("stride", "padding"),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "BatchNorm2d": ("momentum", "eps"),
    "GroupNorm": ("num_groups", "eps"),
    "Dropout": ("p",),
    "AvgPool2d": ("kernel_size",),
}


class Chosen(NamedTuple):
    """A test image that the page offers, and why: "hardest", "classes" or "random"."""

    group: str
    index: int


def write_page(
    directory: str | Path, output: str | Path | None = None, checkpoint: str = "last"
) -> Path:
    """Write the page of a run, by default as `page.html` in its directory; print and return where.

    Raises:
        UserError: there is no such run, its network has a component that the page cannot compute,
            or the page cannot be written.
    """
    directory = Path(directory)
    output = Path(output or directory / "page.html")
    _, restored, model = restore(directory, checkpoint)
    data = cast(DataModule, restored)
    network = cast(nn.Module, model.network).cpu().float().eval()
    if (data.dataset.channels, data.dataset.image_size) != (1, SIDE):
        raise UserError(f"{directory}: the page draws grey images of {SIDE} x {SIDE} pixels only")
    data.setup("test")
    images, labels = (tensor.cpu() for tensor in data.splits["test"])
    components = described(network)
    logits = _logits(network, data, images)
    _check_order(network, data.prepare(images[:2]), logits[:2])
    contents = {
        "title": str(directory),
        "facts": _facts(directory, data.dataset, components),
        "classes": data.dataset.class_names,
        "mean": data.dataset.mean[0],
        "std": data.dataset.std[0],
        "network": [_encoded(component) for component in components],
        "test": _test_images(images, labels, logits),
        "training": _training_images(*data.splits["train"], images, labels),
    }
    history = read_history(directory, dict(_tensors(components)))
    html = _rendered(contents | {"history": [], "epochsKept": 0})
    contents["epochsKept"] = len(history)
    contents["history"] = _thinned(history, LARGEST - len(html.encode()))
    with replacing(output, "wb") as file:
        file.write(_rendered(contents).encode())
    print(output)
    return output


def described(network: nn.Module) -> list[dict[str, Any]]:
    """The components of a network in the order of its modules, their tensors as arrays.

    Raises:
        UserError: names a component that the page cannot compute.
    """
    leaves = [leaf for leaf in network.named_modules() if not any(leaf[1].children())]
    return [_described(name, module) for name, module in leaves]


def _described(name: str, module: nn.Module) -> dict[str, Any]:
    kind = type(module).__name__
    if kind not in backprop.COMPONENTS:
        known = ", ".join(backprop.COMPONENTS)
        raise UserError(f"{name}={module}: not a component that the page knows; it knows {known}")
    options = {key: getattr(module, key) for key in OPTIONS.get(kind, ())}
    for key in ("stride", "padding", "kernel_size"):
        if isinstance(options.get(key), int):
            options[key] = (options[key], options[key])
    parameters = {key: value.detach().numpy() for key, value in module.named_parameters()}
    if kind != "Dropout" and "bias" not in parameters and "weight" in parameters:
        raise UserError(f"{name}={module}: the page computes it with a bias only")
    buffers = {
        key: value.numpy() for key, value in module.named_buffers() if value.is_floating_point()
    }
    return {
        "name": name,
        "kind": kind,
        "options": options,
        "parameters": parameters,
        "buffers": buffers,
    }


def _tensors(components: list[dict[str, Any]]) -> list[tuple[str, np.ndarray]]:
    """All arrays by their names in the state dict, in the order in which the page reads them."""
    return [
        (f"{component['name']}.{key}", value)
        for component in components
        for part in ("parameters", "buffers")
        for key, value in component[part].items()
    ]


def _encoded(component: dict[str, Any]) -> dict[str, Any]:
    """The component with its arrays as {shape, values: float32, little-endian, in base64}."""
    encoded = dict(component)
    for part in ("parameters", "buffers"):
        encoded[part] = {
            key: {"shape": value.shape, "values": _base64(value.astype("<f4").tobytes())}
            for key, value in component[part].items()
        }
    return encoded


@torch.no_grad()
def _logits(network: nn.Module, data: DataModule, images: Tensor) -> Tensor:
    """Logits (N, K) of images uint8 (N, 28, 28), in float32 as the page computes them."""
    batches = [network(data.prepare(batch)) for batch in images.split(250)]
    return torch.cat(batches)


def _check_order(network: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Raise a UserError when the network is not the chain of its modules, in their order."""
    names = "a network whose modules run one after the other, in the order of their definition"
    try:
        by_hand = backprop.forward(network, images, torch.zeros(len(images), dtype=torch.long))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the page needs {names} ({' '.join(str(error).split())})") from None
    if not torch.allclose(by_hand[-1].input, logits, rtol=1e-3, atol=1e-3):
        raise UserError(f"the page needs {names}; computed in this order the logits differ")


def _facts(directory: Path, dataset: DataSet, components: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's head says of the run."""
    sizes = [value.size for component in components for value in component["parameters"].values()]
    result = RunRecord(directory).result or {}
    return {
        "parameters": sum(sizes),
        "accuracy": result.get("accuracy"),
        "digits": dataset.class_names == DIGITS,
        "notice": f"{dataset.name}, {dataset.notice}",
    }


def _test_images(images: Tensor, labels: Tensor, logits: Tensor) -> dict[str, Any]:
    """The test images to choose from, each with its label and the class that the run reads."""
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    hardest = losses.argsort(descending=True, stable=True)[:HARDEST].tolist()
    chosen = [Chosen("hardest", index) for index in hardest]
    for label in range(logits.shape[1]):
        of_class = (labels == label).nonzero().flatten()
        if len(of_class):
            chosen.append(Chosen("classes", int(of_class[0])))
    used = {choice.index for choice in chosen}
    order = np.random.default_rng(SEED).permutation(len(labels)).tolist()
    others = [index for index in order if index not in used]
    chosen += [Chosen("random", index) for index in others[:RANDOM]]
    items = [
        {
            "group": choice.group,
            "index": choice.index,
            "label": int(labels[choice.index]),
            "read": int(logits[choice.index].argmax()),
        }
        for choice in chosen
    ]
    picked = images[[choice.index for choice in chosen]].numpy()
    return {"sprite": _sprite(picked, levels=256), "columns": COLUMNS, "items": items}


def _training_images(
    train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> dict[str, Any]:
    """Images to train with in the page, then held-out test images, in 16 levels of grey."""
    generator = np.random.default_rng(SEED)
    kept = generator.permutation(len(train_labels))[:TRAINING]
    held_out = generator.permutation(len(test_labels))[:HELD_OUT]
    images = torch.cat([train_images[kept].cpu(), test_images[held_out].cpu()])
    labels = torch.cat([train_labels[kept].cpu(), test_labels[held_out].cpu()])
    return {
        "sprite": _sprite(images.numpy(), levels=16),
        "columns": COLUMNS,
        "labels": labels.tolist(),
        "heldOut": len(held_out),
    }


def _sprite(images: np.ndarray, levels: int) -> str:
    """Lay images uint8 (N, 28, 28) out row by row, as a PNG of so many grey levels in base64."""
    count, height, width = images.shape
    rows = -(-count // COLUMNS)
    cells = np.zeros((rows * COLUMNS, height, width), np.uint8)
    cells[:count] = np.round(images * ((levels - 1) / 255))
    sheet = cells.reshape(rows, COLUMNS, height, width).swapaxes(1, 2)
    picture = Image.fromarray(sheet.reshape(rows * height, COLUMNS * width), "L")
    if levels <= 16:
        picture.putpalette(np.linspace(0, 255, levels).round().astype(np.uint8).repeat(3).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return _base64(file.getvalue())


def _thinned(history: list[tuple[int, np.ndarray]], room: int) -> list[dict[str, Any]]:
    """Epochs and their float16 values in base64; evenly spread, as many as fit `room` bytes."""
    if not history:
        return []
    size = 4 * -(-history[0][1].nbytes // 3) + 40
    count = min(len(history), max(room // size, 0))
    if count < 2:
        return []
    places = np.linspace(0, len(history) - 1, count).round().astype(int)
    return [
        {"epoch": history[place][0], "values": _base64(history[place][1].astype("<f2").tobytes())}
        for place in places
    ]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _rendered(contents: dict[str, Any]) -> str:
    """Assemble the HTML; the policy allows only its scripts and its style, by their hashes."""
    scripts = {name: _source(f"{name}.js") for name in SCRIPTS}
    style = _source("page.css")
    # "<" would let a run's name end the element that holds the data
    data = json.dumps(contents, separators=(",", ":")).replace("<", "\\u003c")
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=contents["title"],
        facts=contents["facts"],
        scripts=scripts,
        style=style,
        data=data,
        script_hashes=[_hash(source) for source in scripts.values()],
        style_hash=_hash(style),
    )


def _source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(source.encode()).digest())}'"
