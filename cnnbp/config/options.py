"""What each value of a config may be: one typed definition for check, error and documentation.

The definitions are kept apart from the classes that they describe, because a wrong value is
answered before anything heavy is imported, and importing torch alone takes seconds. An option of
somebody else's class is checked here only where a wrong value would be found too late.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from cnnbp.errors import UserError

# of a directory; file systems allow 255
LONGEST_NAME_BYTES = 200
NOT_IN_FILE_NAMES = '<>:"|?*\\/' if os.name == "nt" else "/"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
InnerFraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
BatchSize = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
# of the batches of an epoch: so many, or a share of them
Limit = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]
Part = dict[str, Any]


def _is_file_name(name: Any) -> Any:
    text = str(name)
    is_empty = name is None or not text.strip(".")
    is_long = len(os.fsencode(text)) > LONGEST_NAME_BYTES
    is_allowed = text.isprintable() and not set(text) & set(NOT_IN_FILE_NAMES)
    if is_empty or is_long or not is_allowed:
        raise ValueError(f"must be a file name of at most {LONGEST_NAME_BYTES} bytes")
    return name


def _is_path(path: Any) -> Any:
    if not isinstance(path, str) or not path:
        raise ValueError("must be the folder or the file of the data set")
    return path


def _as_list(value: Any) -> Any:
    """Hydra's lists and tuples are sequences too, of which pydantic takes lists alone."""
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_sequence else value


AS_LIST = BeforeValidator(_as_list)

# OURS take the listed keys and no others, THEIRS also what their class takes beside them.
# Strict, because Hydra has read the types already: '1' in the place of 1 is a mistake.
OURS = ConfigDict(strict=True, extra="forbid")
THEIRS = ConfigDict(strict=True, extra="allow")


@with_config(THEIRS)
class RunOptions(TypedDict, total=False):
    """The top of the config."""

    name: Annotated[Any, AfterValidator(_is_file_name), Field(description="run directory")]
    seed: Annotated[Seed, Field(description="of weights, data order, dropout and augmentation")]
    ckpt_path: Annotated[
        Text | None, Field(description="a checkpoint or a run directory to continue in a new run")
    ]
    overwrite: Annotated[bool, Field(description="train anew what is stored under this name")]
    jobs: Annotated[Count | None, Field(description="jobs of a multirun at a time")]


@with_config(OURS)
class DropoutOptions(TypedDict, total=False):
    """The group `dropout`, which the network refers to."""

    rates: Annotated[
        list[Fraction],
        AS_LIST,
        Field(min_length=4, max_length=4, description="after blocks 1 to 4"),
    ]


@with_config(THEIRS)
class SearchOptions(TypedDict, total=False):
    """The group `search`."""

    n_trials: Annotated[Count, Field(description="in all, over every process of the study")]
    parallel: Annotated[
        Count, Field(description="trials that are trained side by side, as a fleet")
    ]
    heartbeat: Annotated[Count, Field(description="seconds between two signs of life")]
    storage: Annotated[Text, Field(description="URL of the study's database")]


@with_config(OURS)
class DataOptions(TypedDict, total=False):
    """`cnnbp.data.datamodule.DataModule`"""

    dataset: Annotated[
        Literal["MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10"] | Part,
        Field(description="data set, or a part with _partial_: true"),
    ]
    root: Annotated[
        Any,
        AfterValidator(_is_path),
        Field(description="folder or file of a data set that is not in the package"),
    ]
    batch_size: Annotated[BatchSize, Field(description="training images in a batch")]
    eval_batch_size: Annotated[BatchSize, Field(description="validation and test images at a time")]
    val_size: Annotated[int, Field(ge=0, description="training images held out, the last ones")]
    folds: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(description="parts of the training images, of which one is held out"),
    ]
    fold: Annotated[Annotated[int, Field(ge=0)] | None, Field(description="which part, from 0")]
    seed: Annotated[Seed, Field(description="of the order of the training images")]
    augment: Annotated[Part, Field(description="an augmentation, or {}")]


@with_config(OURS)
class FolderOptions(TypedDict, total=False):
    """`cnnbp.data.picture_folder.read_folder`"""

    image_size: Annotated[
        Count | None, Field(description="pixels to crop and scale all pictures to")
    ]
    test_share: Annotated[InnerFraction, Field(description="of the pictures of each class")]
    split_seed: Annotated[Seed, Field(description="of the split and the order")]
    _partial_: Literal[True]


@with_config(OURS)
class AugmentOptions(TypedDict, total=False):
    """`cnnbp.data.augment.Augment`"""

    degrees: Annotated[float, Field(ge=0, le=180, description="largest rotation")]
    shift: Annotated[NotNegative, Field(description="largest shift, in pixels")]
    scale: Annotated[Fraction, Field(description="largest relative change of size")]
    shear: Annotated[float, Field(ge=0, le=80, description="largest shear, in degrees")]
    elastic: Annotated[NotNegative, Field(description="deviation of the distortion, in pixels")]
    smoothness: Annotated[Positive, Field(description="of the distortion, in pixels")]
    erase: Annotated[NotNegative, Field(description="longest side of what is erased, in pixels")]


@with_config(OURS)
class ClassifierOptions(TypedDict, total=False):
    """`cnnbp.training.classifier.Classifier`"""

    network: Annotated[Part, Field(description="maps images to logits")]
    optimizer: Annotated[Part, Field(description="an optimizer with _partial_: true")]
    scheduler: Annotated[Part, Field(description="a schedule with _partial_: true, or {}")]
    loss: Annotated[Part, Field(description="maps (logits, labels) to a number, or {}")]
    metrics: Annotated[Part, Field(description="metrics of torchmetrics by name")]
    label_smoothing: Annotated[Fraction, Field(description="share spread over all classes")]
    channels_last: Annotated[bool, Field(description="memory format of the convolutions")]
    backprop: Annotated[
        Literal["autograd", "by_hand"], Field(description="who computes the gradients")
    ]


@with_config(OURS)
class NetworkOptions(TypedDict, total=False):
    """`cnnbp.model.network.Network`"""

    widths: Annotated[
        list[Count],
        AS_LIST,
        Field(min_length=5, max_length=5, description="channels of the five blocks"),
    ]
    dropout: Annotated[
        list[Fraction],
        AS_LIST,
        Field(min_length=4, max_length=4, description="rates after blocks 1 to 4"),
    ]
    activation: Annotated[
        Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"],
        Field(description="after each convolution"),
    ]
    norm: Annotated[Literal["batch", "group", "none"], Field(description="normalisation")]
    order: Annotated[
        Literal["activation_norm", "norm_activation"], Field(description="of the two in a block")
    ]
    head: Annotated[
        Literal["gap", "linear"], Field(description="global average pooling, or a linear layer")
    ]
    channels: Annotated[Count, Field(description="of the images; default: the data set's")]
    image_size: Annotated[
        Count, Field(description="height and width in pixels; default: the data set's")
    ]
    classes: Annotated[Count, Field(description="number of logits; default: the data set's")]


@with_config(OURS)
class FocalOptions(TypedDict, total=False):
    """`cnnbp.training.losses.Focal`"""

    gamma: Annotated[NotNegative, Field(description="how little a sure image counts")]


class TorchOptimizerOptions(TypedDict, total=False):
    """What the optimizers of `torch.optim` below have in common"""

    lr: Annotated[Positive, Field(description="learning rate")]
    weight_decay: Annotated[NotNegative, Field(description="none on biases and normalisation")]
    maximize: Annotated[bool, Field(description="maximise the loss")]
    foreach: Annotated[bool | None, Field(description="compute all parameters at once")]
    differentiable: Annotated[bool, Field(description="differentiate through the step")]
    _partial_: Literal[True]


@with_config(OURS)
class SGDOptions(TorchOptimizerOptions, total=False):
    """`torch.optim.SGD`"""

    momentum: Annotated[Fraction, Field(description="share of the last step to keep")]
    dampening: Annotated[
        Fraction, Field(description="share of the gradient that momentum leaves out")
    ]
    nesterov: Annotated[bool, Field(description="look ahead by the momentum")]
    fused: Annotated[bool, Field(description="one kernel for all parameters")]


@with_config(OURS)
class AdamOptions(TorchOptimizerOptions, total=False):
    """`torch.optim.Adam` and `AdamW`"""

    betas: Annotated[
        list[Fraction],
        AS_LIST,
        Field(
            min_length=2, max_length=2, description="shares of the mean and the mean square to keep"
        ),
    ]
    eps: Annotated[NotNegative, Field(description="added to the denominator")]
    amsgrad: Annotated[bool, Field(description="divide by the largest mean square so far")]
    capturable: Annotated[bool, Field(description="can be captured in a CUDA graph")]
    fused: Annotated[bool, Field(description="one kernel for all parameters")]


@with_config(OURS)
class RMSpropOptions(TorchOptimizerOptions, total=False):
    """`torch.optim.RMSprop`"""

    momentum: Annotated[Fraction, Field(description="share of the last step to keep")]
    alpha: Annotated[Fraction, Field(description="share of the mean square to keep")]
    eps: Annotated[NotNegative, Field(description="added to the denominator")]
    centered: Annotated[bool, Field(description="divide by the standard deviation")]
    capturable: Annotated[bool, Field(description="can be captured in a CUDA graph")]


@with_config(OURS)
class MuonOptions(TypedDict, total=False):
    """`cnnbp.training.muon.Muon`"""

    lr: Annotated[Positive, Field(description="learning rate, as AdamW's")]
    momentum: Annotated[Fraction, Field(description="of kernels; vectors have AdamW's betas")]
    weight_decay: Annotated[NotNegative, Field(description="none on biases and normalisation")]
    _partial_: Literal[True]


@with_config(OURS)
class StepOptions(TypedDict, total=False):
    """`cnnbp.training.schedules.step`"""

    every: Annotated[Count, Field(description="epochs between two falls")]
    gamma: Annotated[float, Field(gt=0, le=1, description="factor of the learning rate")]
    _partial_: Literal[True]


@with_config(OURS)
class AnnealingOptions(TypedDict, total=False):
    """`cnnbp.training.schedules.linear` and `cosine`"""

    warmup: Annotated[Fraction, Field(description="share of all steps in which the rate rises")]
    final_lr: Annotated[NotNegative, Field(description="learning rate of the last step")]
    _partial_: Literal[True]


@with_config(THEIRS)
class OneCycleOptions(TypedDict, total=False):
    """`cnnbp.training.schedules.one_cycle`"""

    warmup: Annotated[Fraction, Field(description="share of all steps in which the rate rises")]
    _partial_: Literal[True]


@with_config(OURS)
class PlateauOptions(TypedDict, total=False):
    """`cnnbp.training.schedules.plateau`"""

    factor: Annotated[InnerFraction, Field(description="of the learning rate")]
    patience: Annotated[int, Field(ge=0, description="epochs without a lower loss")]
    _partial_: Literal[True]


@with_config(OURS)
class AverageOptions(TypedDict, total=False):
    """`cnnbp.training.callbacks.averaging.Average`"""

    decay: Annotated[Fraction, Field(description="share of the average that a step keeps")]


@with_config(OURS)
class FiniteOptions(TypedDict, total=False):
    """`cnnbp.training.callbacks.divergence.Finite`"""

    every_n_steps: Annotated[Count, Field(description="how often the losses are looked at")]


@with_config(OURS)
class CheckpointsOptions(TypedDict, total=False):
    """`cnnbp.training.callbacks.checkpoints.Checkpoints`"""

    directory: Text
    every_n_seconds: Annotated[Positive, Field(description="most training that a kill may cost")]


@with_config(OURS)
class HistoryOptions(TypedDict, total=False):
    """`cnnbp.training.callbacks.history.History`"""

    directory: Text
    every_n_epochs: Annotated[
        int, Field(ge=0, description="how often the weights are kept for the page; 0: never")
    ]


@with_config(OURS)
class DashboardOptions(TypedDict, total=False):
    """`cnnbp.training.callbacks.component_dashboard.Dashboard`"""

    every_n_epochs: Annotated[Count, Field(description="how often anything is written")]
    pictures: Annotated[
        Literal["each", "last"],
        Field(description="pictures and histograms: each such epoch, or the last alone"),
    ]
    embedding: Annotated[bool, Field(description="last features, for TensorBoard's projector")]


@with_config(OURS)
class TensorBoardOptions(TypedDict, total=False):
    """`pytorch_lightning.loggers.TensorBoardLogger`, and the writer that it passes options to"""

    save_dir: Text
    name: str
    version: str
    default_hp_metric: bool
    prefix: str
    sub_dir: str
    max_queue: int
    flush_secs: int


@with_config(OURS)
class TrainerOptions(TypedDict, total=False):
    """`pytorch_lightning.Trainer`"""

    max_epochs: Annotated[Count, Field(description="length of the training")]
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "mps"], Field(description="device")]
    devices: Annotated[Count, Field(description="processes, each with a device")]
    num_nodes: Annotated[Count, Field(description="machines")]
    strategy: Annotated[Literal["auto", "ddp"], Field(description="how processes work together")]
    sync_batchnorm: Annotated[bool, Field(description="statistics over all GPUs")]
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed", "16-mixed"],
        Field(description="auto: bfloat16 where the device computes it natively"),
    ]
    graph: Annotated[
        Literal["auto"] | bool, Field(description="on a GPU, capture steps as CUDA graphs")
    ]
    limit_train_batches: Annotated[Limit, Field(description="number or share of batches")]
    limit_val_batches: Annotated[Limit, Field(description="number or share of batches")]
    limit_test_batches: Annotated[Limit, Field(description="number or share of batches")]
    overfit_batches: Annotated[Limit, Field(description="train on the same few batches")]
    fast_dev_run: Annotated[
        bool | int, Field(description="run a few batches of each stage, without a result")
    ]
    accumulate_grad_batches: Annotated[Count, Field(description="batches in an optimizer step")]
    gradient_clip_val: Annotated[Positive | None, Field(description="largest gradient")]
    gradient_clip_algorithm: Annotated[
        Literal["norm", "value"], Field(description="what is clipped")
    ]
    deterministic: Annotated[
        bool | Literal["warn"], Field(description="only deterministic algorithms")
    ]
    benchmark: Annotated[bool, Field(description="let cuDNN choose by timing")]
    detect_anomaly: Annotated[bool, Field(description="name the operation that gave a NaN")]
    inference_mode: Annotated[bool, Field(description="evaluate in torch.inference_mode")]
    profiler: Annotated[
        Literal["simple", "advanced", "pytorch"] | Part | None,
        Field(description="print where the time goes"),
    ]
    num_sanity_val_steps: Annotated[
        int, Field(ge=-1, description="validation batches before the training; -1: all")
    ]
    log_every_n_steps: Annotated[int, Field(ge=0, description="of Lightning's own logging")]
    enable_progress_bar: Annotated[bool, Field(description="Lightning's, beside ours")]
    enable_model_summary: Annotated[bool, Field(description="Lightning's table of the modules")]
    use_distributed_sampler: Annotated[bool, Field(description="false: our batches are split")]
    plugins: Annotated[list[Any], Field(description="among them the writer of checkpoints")]
    default_root_dir: Annotated[Text, Field(description="the run directory")]
    enable_checkpointing: bool
    limit_predict_batches: Limit
    reload_dataloaders_every_n_epochs: Annotated[int, Field(ge=0)]
    enable_autolog_hparams: bool
    model_registry: str | None
    barebones: bool


# by the part's _target_
PARTS: dict[str, Any] = {
    "cnnbp.data.datamodule.DataModule": DataOptions,
    "cnnbp.data.picture_folder.read_folder": FolderOptions,
    "cnnbp.data.augment.Augment": AugmentOptions,
    "cnnbp.training.classifier.Classifier": ClassifierOptions,
    "cnnbp.model.network.Network": NetworkOptions,
    "cnnbp.training.losses.Focal": FocalOptions,
    "torch.optim.SGD": SGDOptions,
    "torch.optim.Adam": AdamOptions,
    "torch.optim.AdamW": AdamOptions,
    "torch.optim.RMSprop": RMSpropOptions,
    "cnnbp.training.muon.Muon": MuonOptions,
    "cnnbp.training.schedules.step": StepOptions,
    "cnnbp.training.schedules.linear": AnnealingOptions,
    "cnnbp.training.schedules.cosine": AnnealingOptions,
    "cnnbp.training.schedules.one_cycle": OneCycleOptions,
    "cnnbp.training.schedules.plateau": PlateauOptions,
    "cnnbp.training.callbacks.averaging.Average": AverageOptions,
    "cnnbp.training.callbacks.divergence.Finite": FiniteOptions,
    "cnnbp.training.callbacks.checkpoints.Checkpoints": CheckpointsOptions,
    "cnnbp.training.callbacks.history.History": HistoryOptions,
    "cnnbp.training.callbacks.component_dashboard.Dashboard": DashboardOptions,
    "pytorch_lightning.loggers.TensorBoardLogger": TensorBoardOptions,
    "pytorch_lightning.Trainer": TrainerOptions,
}
# by their place in the config, because they build nothing
SECTIONS: dict[str, Any] = {"": RunOptions, "dropout": DropoutOptions, "search": SearchOptions}


def check(options: Any, values: dict[str, Any], place: str = "") -> None:
    """Check values against a definition.

    Args:
        options: one of the definitions above.
        values: by key; a key that is missing keeps its default.
        place: where in the config the values stand, for the message.

    Raises:
        UserError: names the first key, its value and what is allowed.
    """
    try:
        _validator(options).validate_python(values)
    except ValidationError as error:
        raise UserError(_explain(error, options, values, place)) from None


@cache
def _validator(options: Any) -> TypeAdapter[Any]:
    # building one takes longer than all the checks it is used for, and a sweep checks every job
    return TypeAdapter(options)


def _explain(error: ValidationError, options: Any, values: dict[str, Any], place: str) -> str:
    first, *others = error.errors(include_url=False)
    key = str(first["loc"][0])
    name = f"{place}.{key}" if place else key
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(options.__annotations__.keys() - {"_partial_"}))
        return f"{name}: no such key; choose {known}"
    # the alternatives of a union each have an error of their own
    same_key = [other for other in others if other["loc"][0] == key]
    reasons = dict.fromkeys(reason_of(detail) for detail in (first, *same_key))
    return f"{name}={values[key]}: must {', or '.join(reasons)}"


def reason_of(detail: Any) -> str:
    """What pydantic expects, as the end of a sentence that begins with "must"."""
    message = detail["msg"].split(" after validation")[0]
    for start in ("Value error, must ", "Input should ", "List should ", "Value should "):
        message = message.removeprefix(start)
    # a part is a group of keys, one of which names its class
    message = message.replace("a valid dictionary", "a part with _target_")
    message = message.replace("have at least", "be a list of at least")
    message = message.replace("have at most", "be a list of at most")
    # a value that is checked by itself has no place
    index = detail["loc"][-1] if detail["loc"] else None
    return f"{message} at index {index}" if isinstance(index, int) else message
