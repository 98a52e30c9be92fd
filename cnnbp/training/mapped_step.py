"""The steps of several networks of one architecture as one: a step of a fleet."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cnnbp.errors import UserError
from cnnbp.model.dropout import Dropout
from cnnbp.training.muon import Muon, move_together
from cnnbp.training.step import TrainingStep

# layers that multiply what they are given by random factors
DROPOUT_LAYERS = (Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Factor(nn.Module):
    """Stands for a dropout layer in a mapped network: multiplies by factors drawn before."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map x, of any shape, to the same shape and dtype."""
        # the factors are in float32 at least: in 16 bits the scale of what is kept is rounded
        return (x * self.factor).to(x.dtype)


class MappedStep(TrainingStep):
    """Takes the steps of M networks at once, by `torch.func.vmap` over their stacked weights.

    The networks' own weights, gradients, running statistics and sums become views of the stacks, so
    that everything else that reads or writes them, optimizers among them, goes on as for a network
    alone. On a CPU each member draws as it would alone, from its own seed; on a GPU the members
    draw one after the other from one seed, which a captured graph can do.

    Args:
        members: steps of networks of one architecture, with optimizers of one kind.

    Raises:
        UserError: a dropout layer is called more than once.
    """

    def __init__(self, members: Sequence[TrainingStep]):
        first = members[0]
        self.members = list(members)
        self.accumulate, self.autocast_type = first.accumulate, first.autocast_type
        optimizers: list[Any] = [member.optimizer for member in members]
        self.optimizer: Any = Together(optimizers)
        # each member has its own
        self.average = None
        # `why_not_mapped` leaves no training with one to the fleets
        self.scaler = None
        trained = {id(parameter) for parameter in first.parameters}
        self.names, self.parameters = [], []
        self.others: dict[str, Tensor] = {}
        self.own_parameters: list[list[nn.Parameter]] = []
        for name, own in _by_name([member.network.named_parameters() for member in members]):
            whole = side_by_side(own)
            if id(own[0]) in trained:
                self.names.append(name)
                self.parameters.append(whole.requires_grad_())
                self.own_parameters.append(own)
            else:
                self.others[name] = whole
        for name, own in _by_name([member.network.named_buffers() for member in members]):
            self.others[name] = side_by_side(own)
        self.loss_sum = side_by_side([member.loss_sum for member in members])
        self.correct = side_by_side([member.correct for member in members])
        self.gradients: list[Tensor | None] = [None] * len(self.parameters)
        self.parts: dict[int, list[Tensor]] = {}
        if isinstance(first.optimizer, Muon):
            move_together(optimizers)
        self.template = _template(first.network)
        # what each dropout layer is given, by the shape of a batch
        self.dropped: dict[torch.Size, dict[str, Tensor]] = {}
        # of the members' draws in the next step, on a CPU
        self.seeds: Sequence[int] = ()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (M,) and the logits (M, N, K), float32, of a batch (M, N, ...) for each."""
        inputs, factors = self._draw(images)
        parameters = {}
        for name, whole in zip(self.names, self.parameters, strict=True):
            parameters[name] = _for_mapping(whole)
        values = (parameters, self.others | factors, inputs)
        logits = vmap(self._logits, randomness="different")(*values).float()
        losses = []
        for member, own, wanted in zip(self.members, logits, labels, strict=True):
            losses.append(member.loss(own, wanted))
        return torch.stack(losses), logits

    def _logits(self, parameters: Any, others: Any, inputs: Tensor) -> Tensor:
        return functional_call(self.template, {**parameters, **others}, (inputs,))

    def _draw(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw what is random in a step of each member: augmentation, then dropout."""
        inputs: list[Tensor] = []
        factors: dict[str, list[Tensor]] = {}
        for index, (member, own) in enumerate(zip(self.members, images, strict=True)):
            if self.seeds:
                torch.default_generator.manual_seed(self.seeds[index])
            inputs.append(member.inputs(own))
            if own.shape not in self.dropped:
                self.dropped[own.shape] = _dropped(member.network, inputs[0])
            for name, ones in self.dropped[own.shape].items():
                layer = member.network.get_submodule(name)
                factors.setdefault(f"{name}.factor", []).append(layer(ones))
        stacked = {name: torch.stack(own).contiguous() for name, own in factors.items()}
        return torch.stack(inputs), stacked

    def backward(self, loss: Tensor, first: bool) -> None:
        # each member's loss depends on its own weights alone
        share = loss.sum() / self.accumulate
        gradients = torch.autograd.grad(share, self.parameters, allow_unused=True)
        for index, gradient in enumerate(gradients):
            if gradient is None:
                # a part of the network that is not used
                continue
            total = self.gradients[index]
            if total is None:
                # one memory for all steps, whose parts are the members' gradients
                self.gradients[index] = total = torch.empty_like(self.parameters[index])
                self.parts[index] = list(total)
            if first:
                total.copy_(gradient)
            else:
                total.add_(gradient)
        self.attach_gradients()

    def attach_gradients(self) -> None:
        """Let the members' weights have their gradients; an evaluation has cleared them."""
        for index, parts in self.parts.items():
            for own, part in zip(self.own_parameters[index], parts, strict=True):
                if own.grad is None:
                    own.grad = part

    def update(self) -> None:
        super().update()
        for member in self.members:
            if member.average:
                member.average.move()

    def clip_gradients(self) -> None:
        for member in self.members:
            member.clip_gradients()

    @torch.no_grad()
    def add_to_sums(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss_sum += loss * labels.shape[1]
        self.correct += (logits.argmax(-1) == labels).sum(-1)


class Together:
    """The optimizers of a fleet in the place of one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.optimizers = list(optimizers)
        self.param_groups: list[dict[str, Any]] = []
        self.parts: list[torch.optim.Optimizer] = []
        self.state: dict[Any, Any] = {}
        for optimizer in optimizers:
            self.param_groups.extend(optimizer.param_groups)
            self.parts.extend([optimizer, *getattr(optimizer, "parts", ())])

    def step(self) -> None:
        """Move the weights of all members."""
        for optimizer in self.optimizers:
            optimizer.step()


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Copy M tensors of one shape and layout into one (M, ...), and make them views of it."""
    first = tensors[0].detach()
    layout = torch.empty_like(first)
    whole = layout.new_empty(0).set_(
        layout.new_empty(len(tensors) * layout.numel()).untyped_storage(),
        0,
        (len(tensors), *layout.shape),
        (layout.numel(), *layout.stride()),
    )
    for part, tensor in zip(whole, tensors, strict=True):
        part.copy_(tensor.detach())
        tensor.data = part
    return whole


def _by_name(named: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """What each of several networks has under a name."""
    by_name: dict[str, list[Any]] = {}
    for pairs in named:
        for name, value in pairs:
            by_name.setdefault(name, []).append(value)
    return list(by_name.items())


def _for_mapping(weights: Tensor) -> Tensor:
    """Weights (M, ...) as the mapped network takes them.

    On a CPU torch's batch normalisation of channels-last tensors is exact to 1e-3 only, and
    weights that lie so would make the activations lie so.
    """
    return weights.contiguous() if weights.device.type == "cpu" else weights


def _template(network: nn.Module) -> nn.Module:
    """A copy without values, in which factors stand for dropout."""
    template = copy.deepcopy(network)
    for name, layer in list(template.named_modules()):
        if type(layer) in DROPOUT_LAYERS and name:
            template.set_submodule(name, Factor())
    return template.to("meta")


@torch.no_grad()
def _dropped(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Ones in the shape and layout of what each dropout layer is given, in the order of the calls.

    Raises:
        UserError: a layer is called more than once.
    """
    own = copy.deepcopy(network).eval()
    ones: dict[str, Tensor] = {}
    for name, layer in own.named_modules():
        if type(layer) not in DROPOUT_LAYERS:
            continue

        def remember(layer: nn.Module, values: tuple[Tensor], name: str = name) -> None:
            if name in ones:
                raise UserError(f"the dropout layer {name} is called more than once")
            exact = torch.promote_types(values[0].dtype, torch.float32)
            ones[name] = torch.ones_like(values[0], dtype=exact)

        layer.register_forward_pre_hook(remember)
    own(inputs)
    return ones
