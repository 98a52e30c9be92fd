"""What each component of a network is doing: weights, activations and what a step did to them.

A component is a convolution with what follows it in its block: conv1.0 to conv5 in the published
network. Other networks have one for each convolution and each linear layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnbp.model.evaluation_mode import evaluation_mode


def component_weights(
    network: nn.Module, values: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The weight of each component's convolution or linear layer.

    Args:
        values: taken in place of the weights, by the names of these; missing ones are left out.
    """
    if values is None:
        values = dict(network.named_parameters())
    weights = {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{name}.weight" in values:
            weights[name.removesuffix(".conv")] = values[f"{name}.weight"].detach()
    return weights


def step_scalars(
    network: nn.Module, before: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """How strong the gradient of a step was at each component, and how far the step moved it.

    Args:
        before: the parameters before the step, by name.
        gradients: those of the step, by name of the parameter.
    """
    scalars = {}
    old = component_weights(network, before)
    for name, new in component_weights(network).items():
        own = [gradient for key, gradient in gradients.items() if key.startswith(f"{name}.")]
        scalars[f"gradient/{name}"] = nn.utils.get_total_norm(own)
        scalars[f"update_ratio/{name}"] = (new - old[name]).norm() / old[name].norm()
    return scalars


def state_scalars(network: nn.Module, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The share of dead channels of each component, and the state of its BatchNorm.

    Args:
        maps: the activations (N, C, H, W) by component.
    """
    scalars = {}
    for name, activation in maps.items():
        component = network.get_submodule(name)
        if _activation_of(component):
            highest = activation.amax((0, 2, 3))
            scalars[f"dead/{name}"] = (highest <= 0).float().mean()
        norm = getattr(component, "norm", None)
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scalars[f"batch_norm_mean/{name}"] = mean.mean()
            scalars[f"batch_norm_std/{name}"] = variance.sqrt().mean()
    return scalars


def _activation_of(component: nn.Module) -> nn.Module | None:
    activation = getattr(component, "activation", None)
    return activation if isinstance(activation, nn.Module) else None


def activations(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run prepared images (N, C, H, W) in evaluation mode; every module keeps the mode it was in.

    Returns:
        On the CPU, by component: the output (N, C, H, W) of its activation, or its own where it
        has none.
    """
    maps: dict[str, Tensor] = {}
    hooks = []
    for name in component_weights(network):
        component = network.get_submodule(name)

        def keep(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            # a component of one's own may give anything
            if isinstance(output, Tensor) and output.ndim == 4:
                maps[name] = output.cpu()

        # what follows the activation in a block would hide which channels are dead
        watched = _activation_of(component) or component
        hooks.append(watched.register_forward_hook(keep))
    try:
        with torch.no_grad(), evaluation_mode(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return maps
