"""One image's way through the network and its gradient's way back, component by component.

Everything is in evaluation mode (running statistics, no dropout) and float64: the same every time,
and the gradients by hand and by autograd agree to rounding.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.model import backprop
from cnnbp.model.layer_table import measure


class Description(NamedTuple):
    """What a kind of component is called, and what happens in it, for a reader."""

    title: str
    forward: str
    backward: str


DESCRIPTIONS = {
    "Conv2d": Description(
        "conv",
        "each kernel slides over all maps and sums them by weight",
        "a pixel collects from all its windows",
    ),
    "Linear": Description(
        "linear",
        "each output sums all inputs by weight",
        "each input collects from all outputs",
    ),
    "ReLU": Description(
        "ReLU",
        "negative values become 0",
        "it passes where the value was positive and stops elsewhere",
    ),
    "BatchNorm2d": Description(
        "batch norm",
        "each map is shifted and scaled as learnt in training",
        "each map's gradient is scaled alike",
    ),
    "GroupNorm": Description(
        "group norm",
        "each group of maps gets one mean and one spread",
        "each group's gradient is centred and scaled",
    ),
    "AvgPool2d": Description(
        "mean of each map",
        "each map is averaged to the score of one class",
        "each pixel gets an equal share",
    ),
    "Flatten": Description(
        "probabilities", "softmax turns the scores into probabilities that sum to 1", ""
    ),
    "CrossEntropyLoss": Description(
        "loss",
        "minus the logarithm of the label's probability",
        "probabilities, less 1 at the label",
    ),
}


def describe(kind: str) -> Description:
    """Describe a component by the name of its class; an unknown one as an activation."""
    if kind in DESCRIPTIONS:
        return DESCRIPTIONS[kind]
    return Description(
        kind, "each value is mapped on its own", "it is multiplied by the slope at each value"
    )


@dataclass(frozen=True)
class TracedComponent:
    """One component on the way: the image, each module of the network, the logits, the loss.

    Attributes:
        name: the module's; "image", "flatten" (the logits) and "loss" for the others.
        kind: the name of the module's class.
        title: what the component is, for a reader.
        output, gradient: the activation and the gradient of the loss at it, float64, without the
            batch dimension.
        difference: the largest between gradients by hand and by autograd, at the output and at
            the parameters, as a share of the largest element there.
        parameters, field, macs: as in `layer_table.Layer`; behind the last module the receptive
            field stays.
        weight_gradient: norm of the gradient of the weight, without the bias; None where there
            is no weight.
        update: how much of the weight one plain SGD step changes, ||lr gradient|| / ||weight||.
    """

    name: str
    kind: str
    title: str
    output: Tensor
    gradient: Tensor
    difference: float
    parameters: int = 0
    field: int = 1
    macs: int = 0
    weight_gradient: float | None = None
    update: float | None = None

    @property
    def block(self) -> str:
        """The part of the network that it belongs to: conv1.0 for conv1.0.norm, gap for gap."""
        return self.name.rpartition(".")[0] or self.name


Trace = list[TracedComponent]


def trace_image(
    network: nn.Module, image: Tensor, label: int | None, learning_rate: float
) -> tuple[Trace, int]:
    """Send an image to the loss and the gradient back.

    Args:
        image: the network's input (1, C, H, W), float64.
        label: without one the prediction is taken for it.
        learning_rate: of the step that `update` measures.

    Returns:
        The components, the image first and the loss last, and the label.
    """
    # a copy, because the caller's network keeps its precision and its mode
    network = copy.deepcopy(network).cpu().double().eval().requires_grad_()
    if label is None:
        label = int(network(image).argmax())
    labels = torch.tensor([label])
    records = backprop.forward(network, image, labels)
    gradients, image_gradient = backprop.backward(records)
    reference = _gradients_by_autograd(network, image, labels)
    modules = dict(network.named_modules())
    layers = {layer.name: layer for layer in measure(network, image)}
    start = TracedComponent(
        "image",
        "Input",
        "normalised pixels",
        image[0],
        image_gradient[0],
        _relative_difference(image_gradient, reference["image"]),
    )
    trace = [start]
    for record in records:
        own = {}
        for key, gradient in gradients.items():
            if key.rpartition(".")[0] == record.name:
                own[key] = gradient
        module, layer = modules.get(record.name), layers.get(record.name)
        field = layer.receptive_field if layer else trace[-1].field
        component = _traced(record, module, own, reference, learning_rate)
        if layer:
            component = replace(component, parameters=layer.parameters, macs=layer.macs)
        trace.append(replace(component, field=field))
    return trace, label


def _traced(
    record: backprop.Record,
    module: nn.Module | None,
    gradients: dict[str, Tensor],
    reference: dict[str, Tensor],
    learning_rate: float,
) -> TracedComponent:
    """A component from its record, compared with autograd.

    Args:
        gradients: of its parameters.
        reference: gradients by autograd.
    """
    gradient = record.gradient
    # backward has filled it in
    assert gradient is not None
    differences = [_relative_difference(gradient, reference[record.name])]
    for key, own in gradients.items():
        differences.append(_relative_difference(own, reference[key]))
    weight_gradient = update = None
    if gradients and module is not None:
        norm = gradients[f"{record.name}.weight"].norm()
        weight_gradient = norm.item()
        update = (learning_rate * norm / module.get_parameter("weight").norm()).item()
    return TracedComponent(
        name=record.name,
        kind=record.kind,
        title=_title(record.kind, module),
        output=_without_batch(record.output),
        gradient=_without_batch(gradient),
        difference=max(differences),
        weight_gradient=weight_gradient,
        update=update,
    )


def _without_batch(values: Tensor) -> Tensor:
    # the loss has no batch
    return values[0] if values.ndim else values


def _gradients_by_autograd(network: nn.Module, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradients at the image, the modules' outputs, the logits, the loss and the parameters."""
    nodes = {"image": image.clone().requires_grad_()}
    hooks = []
    for name, module in network.named_modules():

        def keep(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            nodes[name] = output

        hooks.append(module.register_forward_hook(keep))
    nodes["flatten"] = network(nodes["image"])
    for hook in hooks:
        hook.remove()
    nodes["loss"] = F.cross_entropy(nodes["flatten"], labels)
    nodes |= dict(network.named_parameters())
    gradients = torch.autograd.grad(nodes["loss"], list(nodes.values()))
    return dict(zip(nodes, gradients, strict=True))


def _relative_difference(values: Tensor, reference: Tensor) -> float:
    largest = reference.abs().max().item() or 1.0
    return (values - reference).abs().max().item() / largest


def _title(kind: str, module: nn.Module | None) -> str:
    if not isinstance(module, nn.Conv2d):
        return describe(kind).title
    stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
    return f"conv {module.kernel_size[0]}x{module.kernel_size[1]}{stride}"
