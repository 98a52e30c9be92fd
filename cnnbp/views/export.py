"""A trained run as one file for other programs, checked against PyTorch before it gets its name."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.runs.run_record import RunRecord
from cnnbp.training.classifier import Classifier
from cnnbp.training.restore import restore
from cnnbp.views.model_card import Exported, render_card

# of a logit
LARGEST_DIFFERENCE = 1e-4
# that are compared; none is the one that is traced
BATCH_SIZES = (1, 7, 1000)
TRACED_BATCH_SIZE = 2
OPSET = 20

LOAD_ONNX = """\
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{file}")  # opset {opset}
images = np.zeros((3, {channels}, {size}, {size}), np.uint8)  # raw pixels, any number of images
(logits,) = session.run(["logits"], {{"images": images}})  # float32 (3, {classes})"""

LOAD_TORCH = """\
import torch

model = torch.export.load("{file}").module()  # loads pickles: only files that you trust
images = torch.zeros(3, {channels}, {size}, {size}, dtype=torch.uint8)  # raw pixels, any number
logits = model(images)  # float32 (3, {classes})"""

LOAD_SAFETENSORS = """\
import json, safetensors, torch
from {module} import {network}

with safetensors.safe_open("{file}", "pt") as file:
    facts, weights = file.metadata(), {{name: file.get_tensor(name) for name in file.keys()}}
network = {network}(**json.loads(facts["network"])).eval()
network.load_state_dict(weights)
images = torch.zeros(3, {channels}, {size}, {size}, dtype=torch.uint8)  # raw pixels, any number
mean, std = (torch.tensor(json.loads(facts[key]))[:, None, None] for key in ("mean", "std"))
logits = network((images / 255 - mean) / std)  # (3, {classes})"""


# images (N, C, H, W), uint8, to logits (N, K)
Program = Callable[[Tensor], Tensor]


class Deployed(nn.Module):
    """The preparation of a run's images and its network in one, for raw pixels."""

    def __init__(self, network: nn.Module, data: DataModule):
        super().__init__()
        self.network, self.data = network.eval(), data

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to logits (N, K)."""
        return self.network(self.data.prepare(images))


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        write: takes the module, the arguments of its network and the open file; returns what the
            written file computes.
        snippet: how to load it, with places for names.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Deployed, dict[str, Any], IO[bytes]], Program]
    snippet: str


def export(
    directory: str | Path, format: str, output: str | Path | None = None, checkpoint: str = "last"
) -> Path:
    """Write a run as one file, and a model card (.md) beside it.

    Args:
        format: a key of `FORMATS`.
        output: by default `model.*` in the run directory.
        checkpoint: "last" or "best".

    Raises:
        UserError: there is no such run or checkpoint, a package is missing, `output` cannot be
            written, or the file does not compute what the run does; then nothing is left.
    """
    kind = FORMATS[format]
    run = RunRecord.open(directory)
    output = Path(output or run.path / f"model{kind.suffix}")
    _check_output(format, kind, output)
    config, data, model = restore(directory, checkpoint)
    images, expected = _reference(data, model)
    # other programs know no channels-last
    deployed = Deployed(model.network.to(memory_format=torch.contiguous_format), data)
    options = OmegaConf.to_container(config.model.network, resolve=True)
    del options["_target_"]
    card = output.with_name(f"{output.name}.md")
    with replacing(output, "wb") as file, replacing(card) as card_file:
        program = kind.write(deployed, options, file)
        difference = largest_difference(program, images, expected)
        # also where it is NaN
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"{output}: not written, it differs from torch by {difference:.1e}; "
                "give another --format"
            )
        exported = Exported(output.name, checkpoint, len(images), difference)
        snippet = _snippet(kind, output.name, deployed)
        card_file.write(render_card(run, model.network, data.dataset, snippet, exported))
    print(f"{output}: within {difference:.1e} of torch's logits on {len(images):,} test images")
    return output


def _check_output(format: str, kind: Format, output: Path) -> None:
    """Raise a UserError before the work is done where it could not be written."""
    missing = [package for package in kind.packages if not find_spec(package)]
    if missing:
        raise UserError(
            f"--format {format} needs {', '.join(missing)}; pip install 'cnnbp[export]'"
        )
    if output.suffix != kind.suffix:
        raise UserError(f"{output}: --format {format} writes *{kind.suffix} files; name it so")
    if not os.access(output.parent, os.W_OK):
        raise UserError(
            f"{output.parent} is not a directory that can be written to; mkdir -p {output.parent}"
        )


def _reference(data: DataModule, model: Classifier) -> tuple[Tensor, Tensor]:
    """Test images (N, C, H, W), uint8, and their logits in float32, as the file computes them."""
    data.setup("test")
    images = data.as_pixels(data.splits["test"][0][: max(BATCH_SIZES)], torch.uint8)
    with torch.no_grad():
        return images, model(data.prepare(images))


def _snippet(kind: Format, file: str, deployed: Deployed) -> str:
    network, dataset = type(deployed.network), deployed.data.dataset
    return kind.snippet.format(
        file=file,
        module=network.__module__,
        network=network.__name__,
        opset=OPSET,
        channels=dataset.channels,
        size=dataset.image_size,
        classes=dataset.classes,
    )


@torch.no_grad()
def largest_difference(program: Program, images: Tensor, expected: Tensor) -> float:
    """Compare the logits of a program with expected ones (N, K), in batches of several sizes."""
    differences = []
    for size in BATCH_SIZES:
        differences.append((program(images[:size]) - expected[:size]).abs().max())
    # torch's maximum keeps a NaN
    return torch.stack(differences).max().item()


def write_torch(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Program:
    """Write a torch.export program."""
    torch.export.save(_traced(deployed), file)
    file.flush()
    # by its name torch takes *.pt2 alone, which this file is not yet
    with open(file.name, "rb") as written:
        return torch.export.load(written).module()


def write_onnx(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Program:
    """Write ONNX, weights included."""
    import onnxruntime

    program = torch.onnx.export(
        _traced(deployed),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_any_batch_size(),
    )
    # as it would be without dynamo
    assert program is not None
    file.write(program.model_proto.SerializeToString())
    file.flush()
    session = onnxruntime.InferenceSession(file.name)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def _any_batch_size() -> dict[str, Any]:
    return {"images": {0: torch.export.Dim("batch")}}


def _traced(deployed: Deployed) -> torch.export.ExportedProgram:
    dataset = deployed.data.dataset
    side = dataset.image_size
    images = torch.zeros(TRACED_BATCH_SIZE, dataset.channels, side, side, dtype=torch.uint8)
    program = torch.export.export(deployed, (images,), dynamic_shapes=_any_batch_size())
    for node in program.graph.nodes:
        # names folders of this machine
        node.meta.pop("stack_trace", None)
    return program


def write_safetensors(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Program:
    """Write the weights and, as metadata, what else the network needs.

    Raises:
        UserError: other bits are read back.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    state, dataset = deployed.network.state_dict(), deployed.data.dataset
    facts = {
        "format": "pt",
        "dataset": dataset.name,
        "mean": json.dumps(dataset.mean),
        "std": json.dumps(dataset.std),
        "network": json.dumps(options),
    }
    file.write(save(state, facts))
    file.flush()
    with safe_open(file.name, "pt") as written:
        facts = written.metadata()
        weights = {name: written.get_tensor(name) for name in state}
    for name, value in state.items():
        if weights[name].numpy().tobytes() != value.numpy().tobytes():
            raise UserError(
                "safetensors did not keep the weights bit by bit; give another --format"
            )
    network = type(deployed.network)(**json.loads(facts["network"]))
    network.load_state_dict(weights)
    return Deployed(network, deployed.data)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, LOAD_ONNX),
    "safetensors": Format(".safetensors", ("safetensors",), write_safetensors, LOAD_SAFETENSORS),
    "torch": Format(".pt2", (), write_torch, LOAD_TORCH),
}
