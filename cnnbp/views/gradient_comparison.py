"""The gradients of a network at one image, by the equations and by autograd.

Layers that the equations do not cover are propagated by autograd, so that any network can be
looked at. Where a network is a chain of layers, its gradient is followed by hand from the loss to
the image. Where something else happens between its layers (a shortcut, a functional ReLU), each
layer is compared by itself, on the gradient that autograd gives at its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.errors import UserError
from cnnbp.model import backprop


class Comparison(NamedTuple):
    """The output and the gradients of a layer, or of what has no layer: the image, logits and loss.

    Attributes:
        gradient: of the loss, at the output.
        parameter_gradients: by their names in the layer.
        difference: the largest one between both ways, at the output and at the parameters, as a
            share of the largest element there.
        by_hand: whether equations cover it.
    """

    name: str
    module: nn.Module | None
    output: Tensor
    gradient: Tensor
    parameter_gradients: dict[str, Tensor]
    difference: float
    by_hand: bool


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in the network's own forward pass, under autograd."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor


class Recorded(NamedTuple):
    """The network's own forward pass, under autograd."""

    image: Tensor
    calls: list[Call]
    logits: Tensor
    loss: Tensor


class Propagated(NamedTuple):
    """The output of a layer, and what maps the gradient there to those at input and parameters."""

    output: Tensor
    backward: backprop.Backward
    by_hand: bool


def compare_gradients(network: nn.Module, image: Tensor, labels: Tensor) -> list[Comparison]:
    """Compute all gradients in both ways.

    Args:
        network: in evaluation mode, all of its parameters differentiable.
        image: (1, C, H, W).
        labels: (1,), whole numbers.

    Returns:
        The image first, then each layer in the order of its calls, the logits, and the loss.
    """
    recorded = _record(network, image.clone().requires_grad_(), labels)
    chain = _propagate_chain(recorded)
    if chain is None:
        return _compare_layers(recorded, labels)
    return _compare_chain(recorded, chain, labels)


def _record(network: nn.Module, image: Tensor, labels: Tensor) -> Recorded:
    """Record each call of a layer that maps one tensor to another one."""
    calls: list[Call] = []
    hooks = []
    for name, module in network.named_modules():
        if any(module.children()):
            continue
        layer: Any = module
        # the values that a layer would write over are needed
        if hasattr(layer, "inplace"):
            layer.inplace = False

        # autograd cannot follow an output that needs no gradient, such as an index
        def keep(module: nn.Module, inputs: tuple, output: object, name: str = name) -> None:
            is_plain = len(inputs) == 1 and isinstance(inputs[0], Tensor)
            if is_plain and isinstance(output, Tensor) and output.requires_grad:
                calls.append(Call(name, module, inputs[0], output))

        hooks.append(module.register_forward_hook(keep))
    logits = network(image)
    for hook in hooks:
        hook.remove()
    return Recorded(image, calls, logits, F.cross_entropy(logits, labels))


@torch.no_grad()
def _propagate_chain(recorded: Recorded) -> list[Propagated] | None:
    """Send the image from layer to layer; None where the network does something else as well."""
    parameters: list[Tensor] = []
    for call in recorded.calls:
        parameters += call.module.parameters()
    # the gradient of shared weights is a sum over calls
    if len(set(parameters)) < len(parameters):
        return None
    chain: list[Propagated] = []
    x = recorded.image.detach()
    for call in recorded.calls:
        # a shortcut or a function between two layers gives the next one other values
        if not _are_alike(x, call.input):
            return None
        chain.append(_propagate(call, x.reshape(call.input.shape)))
        x = chain[-1].output
    return chain if _are_alike(x, recorded.logits) else None


def _are_alike(values: Tensor, others: Tensor) -> bool:
    """Whether two tensors hold the same values, up to rounding and to their shape."""
    return values.numel() == others.numel() and torch.allclose(values.flatten(), others.flatten())


def _propagate(call: Call, x: Tensor) -> Propagated:
    """Propagate by the layer's equations where there are any, else by the layer and autograd."""
    try:
        backprop.check_component(call.name, call.module)
    except UserError:
        return _propagate_by_autograd(call.module, x)
    output, backward = backprop.COMPONENTS[type(call.module).__name__](call.module, x)
    # another layer of the same name
    if not _are_alike(output, call.output):
        return _propagate_by_autograd(call.module, x)
    return Propagated(output, backward, by_hand=True)


def _propagate_by_autograd(module: nn.Module, x: Tensor) -> Propagated:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        output = module(x)
    sources = [x, *module.parameters()]

    def backward(dy: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(output, sources, dy, retain_graph=True, materialize_grads=True)

    return Propagated(output.detach(), backward, by_hand=False)


@torch.no_grad()
def _compare_chain(
    recorded: Recorded, chain: Sequence[Propagated], labels: Tensor
) -> list[Comparison]:
    """Follow the gradient from the loss to the image, and compare it at each place."""
    reference = _reference_gradients(recorded)
    last_output = chain[-1].output if chain else recorded.image.detach()
    logits, flatten_back = backprop.flatten(last_output)
    loss, loss_back = backprop.cross_entropy(logits, labels)
    dloss = torch.ones_like(loss)
    (dlogits,) = loss_back(dloss)
    (dy,) = flatten_back(dlogits)
    comparisons = [
        _compare_place("loss", loss, dloss, reference[recorded.loss]),
        _compare_place("logits", logits, dlogits, reference[recorded.logits]),
    ]
    for call, step in zip(reversed(recorded.calls), reversed(chain), strict=True):
        dy = dy.reshape(step.output.shape)
        dx, *dparameters = step.backward(dy)
        expected = [reference[parameter] for parameter in call.module.parameters()]
        differences = [_relative_difference(dy, reference[call.output])]
        differences += map(_relative_difference, dparameters, expected)
        comparisons.append(_compare_layer(call, step, dy, dparameters, max(differences)))
        dy = dx
    dimage = dy.reshape(recorded.image.shape)
    image = recorded.image.detach()
    comparisons.append(_compare_place("image", image, dimage, reference[recorded.image]))
    return comparisons[::-1]


def _reference_gradients(recorded: Recorded) -> dict[Tensor, Tensor]:
    """The gradients by autograd at the image, all outputs, all parameters, logits and loss."""
    sources = [recorded.image, recorded.logits, recorded.loss]
    for call in recorded.calls:
        sources += [call.output, *call.module.parameters()]
    gradients = torch.autograd.grad(recorded.loss, sources, materialize_grads=True)
    return dict(zip(sources, gradients, strict=True))


@torch.no_grad()
def _compare_layers(recorded: Recorded, labels: Tensor) -> list[Comparison]:
    """Compare each layer by itself, on the gradient that autograd gives at its output."""
    outputs = [call.output for call in recorded.calls]
    dimage, dlogits, *gradients = torch.autograd.grad(
        recorded.loss,
        [recorded.image, recorded.logits, *outputs],
        retain_graph=True,
        materialize_grads=True,
    )
    image = recorded.image.detach()
    comparisons = [Comparison("image", None, image, dimage, {}, 0.0, by_hand=False)]
    for call, dy in zip(recorded.calls, gradients, strict=True):
        # without its past: of a layer that is called twice, each call has its own gradient
        x = call.input.detach()
        step = _propagate(call, x)
        computed = step.backward(dy)
        expected = _propagate_by_autograd(call.module, x).backward(dy)
        difference = max(map(_relative_difference, computed, expected))
        comparisons.append(_compare_layer(call, step, dy, computed[1:], difference))
    logits = recorded.logits.detach()
    loss, loss_back = backprop.cross_entropy(logits, labels)
    dloss = torch.ones_like(loss)
    (dlogits_by_hand,) = loss_back(dloss)
    comparisons.append(_compare_place("logits", logits, dlogits_by_hand, dlogits))
    comparisons.append(_compare_place("loss", loss, dloss, dloss))
    return comparisons


def _compare_layer(
    call: Call, step: Propagated, dy: Tensor, dparameters: Sequence[Tensor], difference: float
) -> Comparison:
    names = [name for name, _ in call.module.named_parameters()]
    own = dict(zip(names, dparameters, strict=True))
    return Comparison(call.name, call.module, step.output, dy, own, difference, step.by_hand)


def _compare_place(name: str, output: Tensor, gradient: Tensor, reference: Tensor) -> Comparison:
    """Compare the gradient at a place that has no layer."""
    difference = _relative_difference(gradient, reference)
    return Comparison(name, None, output, gradient, {}, difference, by_hand=True)


def _relative_difference(values: Tensor, reference: Tensor) -> float:
    largest = reference.abs().max().item() or 1.0
    return (values - reference).abs().max().item() / largest
