"""One image's way through the network and its gradient's way back, component by component.

Everything is in evaluation mode (running statistics, no dropout) and float64: the same every time,
and the gradients by hand and by autograd agree to rounding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnbp.model.layer_table import Layer, measure
from cnnbp.views.gradient_comparison import Comparison, compare_gradients
from cnnbp.views.layer_descriptions import describe, title_of

# of what is no layer, by its name; no class has these names
KINDS = {"image": "input", "logits": "scores", "loss": "cross_entropy"}


@dataclass(frozen=True, eq=False)
class TracedComponent:
    """One component on the way: the image, each layer of the network, the logits, the loss.

    Attributes:
        name: the layer's; "image", "logits" and "loss" for the others.
        kind: the name of the layer's class; a value of `KINDS` for the others.
        title: what the component is, for a reader.
        output, gradient: the activation and the gradient of the loss at it, float64, without the
            batch dimension.
        difference: the largest between gradients by hand and by autograd, at the output and at
            the parameters, as a share of the largest element there.
        by_hand: False where autograd takes the place of equations.
        parameters, field, macs: as in `layer_table.Layer`; behind the last layer the receptive
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
    difference: float = 0.0
    by_hand: bool = True
    parameters: int = 0
    field: int = 1
    macs: int = 0
    weight_gradient: float | None = None
    update: float | None = None

    @property
    def is_layer(self) -> bool:
        """Whether it is a part of the network: not the image, the logits or the loss."""
        return self.kind not in KINDS.values()


@dataclass(frozen=True, eq=False)
class Trace:
    """An image's way, the image first and the loss last.

    Attributes:
        label: of the image; the prediction where it is unknown.
        class_names: by label.
    """

    components: list[TracedComponent]
    label: int
    class_names: Sequence[str]

    @property
    def probabilities(self) -> Tensor:
        """Of the classes (K,), float64."""
        return self.components[-2].output.softmax(0)

    @property
    def prediction(self) -> int:
        """The label of the likeliest class."""
        return int(self.probabilities.argmax())


def trace_image(
    network: nn.Module,
    image: Tensor,
    label: int | None,
    learning_rate: float | None,
    class_names: Sequence[str] | None = None,
) -> Trace:
    """Send an image to the loss and the gradient back.

    Args:
        image: the network's input (1, C, H, W), float64.
        label: without one the prediction is taken for it.
        learning_rate: of the step that `update` measures; without one it is not measured.
        class_names: by label; by default the labels themselves.
    """
    # a copy: the run's own network keeps its precision, its mode and its gradients
    network = copy.deepcopy(network).cpu().double().eval().requires_grad_()
    with torch.no_grad():
        logits = network(image)[0]
    if label is None:
        label = int(logits.argmax())
    layers = {layer.name: layer for layer in measure(network, image)}
    components: list[TracedComponent] = []
    for comparison in compare_gradients(network, image, torch.tensor([label])):
        if comparison.module is None:
            field = components[-1].field if components else 1
            components.append(_place(comparison, field))
        else:
            layer = layers[comparison.name]
            components.append(_component(comparison, comparison.module, layer, learning_rate))
    return Trace(components, label, class_names or [str(k) for k in range(len(logits))])


def _place(comparison: Comparison, field: int) -> TracedComponent:
    """The image, the logits or the loss."""
    kind = KINDS[comparison.name]
    return TracedComponent(
        name=comparison.name,
        kind=kind,
        title=describe(kind).title,
        output=_without_batch(comparison.output),
        gradient=_without_batch(comparison.gradient),
        difference=comparison.difference,
        by_hand=comparison.by_hand,
        field=field,
    )


def _component(
    comparison: Comparison, module: nn.Module, layer: Layer, learning_rate: float | None
) -> TracedComponent:
    weight_gradient = update = None
    if "weight" in comparison.parameter_gradients:
        norm = comparison.parameter_gradients["weight"].norm()
        weight_gradient = norm.item()
        if learning_rate is not None:
            update = (learning_rate * norm / module.get_parameter("weight").norm()).item()
    return TracedComponent(
        name=comparison.name,
        kind=layer.kind,
        title=title_of(module),
        output=_without_batch(comparison.output),
        gradient=_without_batch(comparison.gradient),
        difference=comparison.difference,
        by_hand=comparison.by_hand,
        parameters=layer.parameters,
        field=layer.receptive_field,
        macs=layer.macs,
        weight_gradient=weight_gradient,
        update=update,
    )


def _without_batch(values: Tensor) -> Tensor:
    # the loss has no batch
    return values[0] if values.ndim else values
