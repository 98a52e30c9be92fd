"""A trained run as one file for other programs, checked against torch before it gets its name, and its model card."""

import json
import os
import shlex
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from cnnbp.data.datamodule import DataModule
from cnnbp.errors import UserError
from cnnbp.files import replacing
from cnnbp.runs.run_record import RunRecord, read_result
from cnnbp.training.restore import restore

LARGEST_DIFFERENCE = 1e-4  # of a logit
BATCH_SIZES = (1, 7, 1000)  # none is the one that is traced
FREE_BATCH = {"images": {0: torch.export.Dim("batch")}}
OPSET = 20

LOAD_ONNX = """\
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{file}")  # opset {opset}
images = np.zeros((3, 1, 28, 28), np.uint8)  # raw pixels, any number of images
(logits,) = session.run(["logits"], {{"images": images}})  # float32 (3, 10)"""

LOAD_TORCH = """\
import torch

model = torch.export.load("{file}").module()  # reads pickles: only from whom you trust
images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)  # raw pixels, any number of images
logits = model(images)  # float32 (3, 10)"""

LOAD_SAFETENSORS = """\
import json, safetensors, torch
from {module} import {network}

with safetensors.safe_open("{file}", "pt") as file:
    facts, weights = file.metadata(), {{name: file.get_tensor(name) for name in file.keys()}}
network = {network}(**json.loads(facts["network"])).eval()
network.load_state_dict(weights)
images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)  # raw pixels, any number of images
logits = network((images / 255 - float(facts["mean"])) / float(facts["std"]))  # float32 (3, 10)"""

CARD = """\
# {dataset} classifier with {parameters:,} parameters

`{file}`: the {checkpoint} checkpoint of the run `{name}`, seed {seed}. When it was written, its logits for
{images:,} test images were within {difference:.1e} of PyTorch's.

```python
{snippet}
```

## Accuracy

{accuracy}

## Network and training

{layers}

| | |
|---|---|
{recipe}

    {command}

## Use and limits

For teaching, experiments and benchmarks, on single images of {what}:
28 x 28 pixels, light on black, centred and scaled as in {dataset}.
Not for documents, and not for decisions about people: any other image gets one of the ten answers too, and nothing says
how likely it is to be wrong there.

## Licences

Code: MIT. {dataset}: {notice}.
"""


Run = Callable[[Tensor], Tensor]  # images (N, 1, 28, 28), uint8, to logits (N, 10)


class Deployed(nn.Module):
    """The normalisation of a run's data and its network in one, for raw pixels."""

    def __init__(self, network: nn.Module, data: DataModule):
        super().__init__()
        self.network, self.data = network.eval(), data

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28), uint8, to logits (N, 10)."""
        return self.network(self.data.prepare(images))


class Format(NamedTuple):
    """A kind of file; `write` takes also what the network is built with, and returns what the written file computes."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Deployed, dict[str, Any], IO[bytes]], Run]
    snippet: str


def export(
    directory: str | Path, format: str, output: str | Path | None = None, checkpoint: str = "last"
) -> Path:
    """Write a run in one of `FORMATS`, by default as `model.*` in its directory, and a card (.md) beside; return where.

    Raises:
        UserError: no such run or checkpoint, a package is missing, `output` cannot be written, or what was written
            does not compute what the run does; then nothing is left.
    """
    kind = FORMATS[format]
    if missing := [package for package in kind.packages if not find_spec(package)]:
        raise UserError(
            f"--format {format} needs {', '.join(missing)}; pip install 'cnnbp[export]'"
        )
    output = Path(output or Path(directory) / f"model{kind.suffix}")
    if output.suffix != kind.suffix:
        raise UserError(f"{output}: --format {format} writes *{kind.suffix} files; name it so")
    config, data, model = restore(directory, checkpoint)
    if not os.access(output.parent, os.W_OK):
        raise UserError(
            f"{output.parent} is no directory that can be written to; mkdir -p {output.parent}"
        )
    data.setup("test")
    images = data.splits["test"][0][: max(BATCH_SIZES), None]
    with torch.no_grad():
        wanted = model(data.prepare(images))
    deployed = Deployed(model.network.to(memory_format=torch.contiguous_format), data)
    options = OmegaConf.to_container(config.model, resolve=True)["network"]
    del options["_target_"]
    with replacing(output, "wb") as file, replacing(output.with_name(f"{output.name}.md")) as card:
        difference = largest_difference(kind.write(deployed, options, file), images, wanted)
        if not difference <= LARGEST_DIFFERENCE:  # also NaN
            raise UserError(
                f"{output}: not written, it differs from torch by {difference:.1e}; give another --format"
            )
        facts = {
            "file": output.name,
            "checkpoint": checkpoint,
            "images": len(images),
            "difference": difference,
        }
        card.write(model_card(Path(directory), config, deployed, kind.snippet, facts))
    print(f"{output}: within {difference:.1e} of torch's logits on {len(images):,} test images")
    return output


@torch.no_grad()
def largest_difference(run: Run, images: Tensor, wanted: Tensor) -> float:
    """Compare the logits that `run` gives for images (N, 1, 28, 28), in batches of several sizes, with (N, 10)."""
    return (
        torch.stack([(run(images[:size]) - wanted[:size]).abs().max() for size in BATCH_SIZES])
        .max()
        .item()
    )


def write_torch(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Run:
    """Write a torch.export program."""
    torch.export.save(_traced(deployed), file)
    file.flush()
    with open(file.name, "rb") as written:  # by name torch takes *.pt2 alone, which this is not yet
        return torch.export.load(written).module()


def write_onnx(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Run:
    """Write ONNX, weights included."""
    import onnxruntime

    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": FREE_BATCH}
    program = torch.onnx.export(
        _traced(deployed), dynamo=True, opset_version=OPSET, verbose=False, **names
    )
    file.write(program.model_proto.SerializeToString())
    file.flush()
    session = onnxruntime.InferenceSession(file.name)
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _traced(deployed: Deployed) -> torch.export.ExportedProgram:
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    program = torch.export.export(deployed, (images,), dynamic_shapes=FREE_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def write_safetensors(deployed: Deployed, options: dict[str, Any], file: IO[bytes]) -> Run:
    """Write the weights and, as metadata, what else it takes; raise a UserError unless the same bits are read back."""
    from safetensors import safe_open
    from safetensors.torch import save

    state, data = deployed.network.state_dict(), deployed.data
    facts = {
        "format": "pt",
        "dataset": data.dataset.name,
        "mean": str(data.dataset.mean),
        "std": str(data.dataset.std),
    }
    file.write(save(state, facts | {"network": json.dumps(options)}))
    file.flush()
    with safe_open(file.name, "pt") as written:
        facts, weights = written.metadata(), {name: written.get_tensor(name) for name in state}
    network = type(deployed.network)(**json.loads(facts["network"]))
    network.load_state_dict(weights)
    if any(
        weights[name].numpy().tobytes() != value.numpy().tobytes() for name, value in state.items()
    ):
        raise UserError("safetensors did not keep the weights bit by bit; give another --format")
    return Deployed(network, DataModule(facts["dataset"]))


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, LOAD_ONNX),
    "safetensors": Format(".safetensors", ("safetensors",), write_safetensors, LOAD_SAFETENSORS),
    "torch": Format(".pt2", (), write_torch, LOAD_TORCH),
}


def model_card(
    directory: Path, config: DictConfig, deployed: Deployed, snippet: str, facts: dict[str, Any]
) -> str:
    """Fill in `CARD` from the run's records and from what was exported: file, checkpoint, images and difference."""
    network, dataset = type(deployed.network), deployed.data.dataset
    recipe = {
        "network": _call(config.model.network),
        "epochs, batch size": f"{config.trainer.max_epochs}, {config.data.batch_size}",
        "optimizer": _call(config.optimizer),
        "learning rate schedule": _call(config.scheduler),
        "augmentation": _call(config.augment),
        "label smoothing": config.model.label_smoothing,
        "images held out for validation": config.data.val_size,
    }
    overrides = OmegaConf.load(directory / ".hydra" / "overrides.yaml")
    overrides = [
        override for override in overrides if not override.startswith("name=")
    ]  # another run, another name
    names = {"module": network.__module__, "network": network.__name__, "opset": OPSET}
    return CARD.format(
        **facts,
        name=directory.resolve().name,
        seed=config.seed,
        dataset=dataset.name,
        what=dataset.description,
        notice=dataset.notice,
        parameters=sum(parameter.numel() for parameter in deployed.parameters()),
        snippet=snippet.format(file=facts["file"], **names),
        accuracy="\n".join(accuracy(directory, facts["checkpoint"])),
        layers=network.__doc__.splitlines()[0],
        recipe="\n".join(f"| {key} | {value} |" for key, value in recipe.items()),
        command=shlex.join(["python", "train.py", *overrides]),
    )


def _call(node: DictConfig) -> str:
    options = OmegaConf.to_container(node, resolve=True)
    target = options.pop("_target_", "none").rpartition(".")[2]
    options.pop("_partial_", None)
    return target + f"({', '.join(f'{key}={value}' for key, value in options.items())})" * bool(
        options
    )


def accuracy(directory: Path, checkpoint: str) -> list[str]:
    """Say how well the run did, and all finished runs beside it whose config differs by seed and name only."""
    own = directory / "result.json"
    if own.exists():
        result = read_result(own)
        splits = {
            "accuracy": "test",
            "val_accuracy": "validation",
        }  # a search never looks at the test set
        shares = [
            f"{result[key]:.2%} of the {split} images"
            for key, split in splits.items()
            if key in result
        ]
        lines = [f"{', '.join(shares)} (seed {result['seed']})."]
        if checkpoint == "best":
            lines.append(
                "Measured with the weights after the last epoch; this file holds those of the best epoch."
            )
    else:
        lines = ["Not known, because the run is unfinished."]
    beside = [
        record.parents[1]
        for record in sorted(directory.resolve().parent.glob("*/.hydra/config.yaml"))
    ]
    runs = [run for run in beside if RunRecord(run).recipe == RunRecord(directory).recipe]
    results = [
        read_result(path) for run in [*runs, directory] if (path := run / "result.json").exists()
    ]
    # this run's own counts for its seed
    by_seed = {result["seed"]: result["accuracy"] for result in results if "accuracy" in result}
    if len(by_seed) > 1:
        spread = (
            f"{statistics.mean(by_seed.values()):.2%} +- {statistics.stdev(by_seed.values()):.2%}"
        )
        seeds = ", ".join(map(str, sorted(by_seed)))
        lines.append(
            f"{spread} over n = {len(by_seed)} seeds ({seeds}), mean and standard deviation."
        )
    return lines
