"""One step of training, and one of evaluation, as functions that look at no value."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbp.model.backprop import loss_and_logits
from cnnbp.training.epoch_sums import EpochSums
from cnnbp.training.loss_scaling import step_if_finite
from cnnbp.training.losses import Loss
from cnnbp.training.moving_average import MovingAverage


class TrainingStep(EpochSums):
    """Augments, prepares, goes forward and back, clips, and moves the weights.

    Args:
        network: maps prepared images (N, C, H, W) to logits (N, K).
        optimizer: over the parameters of the network.
        as_pixels: maps stored images, uint8, to pixels (N, C, H, W), float32 in [0, 255].
        normalise: maps pixels to the network's input.
        augment: maps pixels to pixels.
        label_smoothing: share of the target that cross-entropy spreads over all classes.
        own_loss: in the place of cross-entropy.
        by_hand: go back by the equations of `cnnbp.model.backprop` instead of autograd.
        accumulate: batches whose gradients are averaged for one optimizer step.
        clip: largest norm, or value, of the gradients; None leaves them as they are.
        clip_by: "norm" or "value".
        average: of the weights, moved after each optimizer step.
        scaler: scales the loss of a forward pass in float16, whose small gradients would be 0.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        as_pixels: Callable[[Tensor], Tensor],
        normalise: Callable[[Tensor], Tensor],
        augment: Callable[[Tensor], Tensor] | None = None,
        label_smoothing: float = 0.0,
        own_loss: Loss | None = None,
        by_hand: bool = False,
        accumulate: int = 1,
        clip: float | None = None,
        clip_by: str = "norm",
        average: MovingAverage | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.network, self.optimizer = network, optimizer
        self.as_pixels, self.normalise, self.augment = as_pixels, normalise, augment
        self.label_smoothing, self.own_loss, self.by_hand = label_smoothing, own_loss, by_hand
        self.accumulate, self.clip, self.clip_by = accumulate, clip, clip_by
        self.average, self.scaler = average, scaler
        self.parameters: list[nn.Parameter] = []
        for group in optimizer.param_groups:
            self.parameters.extend(group["params"])
        # one memory for the batches of an optimizer step, each of which may be a captured graph
        self.gradient_sums: list[Tensor] = []
        if accumulate > 1:
            for parameter in self.parameters:
                self.gradient_sums.append(torch.zeros_like(parameter))
        device = self.parameters[0].device
        # autocast knows no meta device, on which a step shows that it looks at no value
        self.autocast_type = "cpu" if device.type == "meta" else device.type
        super().__init__(device)

    def __call__(
        self, images: Tensor, labels: Tensor, first: bool = True, last: bool = True
    ) -> Tensor:
        """Take a step on a batch.

        Args:
            images: (N, H, W) or (N, C, H, W), uint8.
            labels: (N,), whole numbers.
            first, last: whether the batch is the first, the last of those that make up one
                optimizer step.

        Returns:
            The loss (), detached.
        """
        loss, logits = self.forward(images, labels)
        # the forward pass alone is in reduced precision
        with torch.autocast(self.autocast_type, enabled=False):
            self.backward(loss, first)
            if last:
                self.update()
                if self.average:
                    self.average.move()
            self.add_to_sums(loss, logits, labels)
        return loss.detach()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and the logits (N, K), float32, of a batch of stored images."""
        inputs = self.inputs(images)
        if self.by_hand:
            return loss_and_logits(self.network, inputs, labels, self.label_smoothing)
        logits = self.network(inputs).float()
        return self.loss(logits, labels), logits

    def inputs(self, images: Tensor) -> Tensor:
        """Augment a batch of stored images and turn it into the network's input (N, C, H, W)."""
        # images are distorted in full precision
        with torch.autocast(self.autocast_type, enabled=False):
            pixels = self.as_pixels(images)
            if self.augment:
                pixels = self.augment(pixels)
            return self.normalise(pixels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss () of logits (N, K)."""
        if self.own_loss:
            return self.own_loss(logits, labels)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def backward(self, loss: Tensor, first: bool) -> None:
        """Leave the gradients at the parameters.

        They are asked for, instead of accumulated by autograd, whose accumulating nodes remember
        the stream they were made on and would spoil a captured graph.
        """
        share = loss / self.accumulate if self.accumulate > 1 else loss
        if self.scaler:
            share = self.scaler.scale(share)
        gradients = torch.autograd.grad(share, self.parameters, allow_unused=True)
        if self.accumulate > 1:
            self.add_gradients(gradients, first)
            return
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    @torch.no_grad()
    def add_gradients(self, gradients: Sequence[Tensor | None], first: bool) -> None:
        """Add the gradients of a batch to those of the batches before it."""
        sums = zip(self.parameters, self.gradient_sums, gradients, strict=True)
        for parameter, total, gradient in sums:
            if gradient is None:
                # a part of the network that this batch has not used
                if first:
                    parameter.grad = None
                    total.zero_()
                continue
            parameter.grad = total
            if first:
                total.copy_(gradient)
            else:
                total.add_(gradient)

    def update(self) -> None:
        """Clip the gradients and move the weights."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        self.clip_gradients()
        if self.scaler:
            step_if_finite(self.optimizer, self.scaler)
        else:
            self.optimizer.step()

    def clip_gradients(self) -> None:
        """Bound the gradients where that is asked for."""
        if self.clip is None:
            return
        if self.clip_by == "value":
            nn.utils.clip_grad_value_(self.parameters, self.clip)
        else:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)


class EvaluationStep(EpochSums):
    """Prepares images, goes forward, and adds to the sums of the epoch.

    Args:
        network: maps prepared images (N, C, H, W) to logits (N, K); in evaluation mode.
        prepare: maps stored images, uint8, to the network's input.
        loss: maps logits and labels to the mean loss ().
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        loss: Loss,
        device: torch.device,
    ):
        super().__init__(device)
        self.network, self.prepare, self.loss = network, prepare, loss

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Evaluate a batch; return its logits (N, K), float32.

        Args:
            images: (N, H, W) or (N, C, H, W), uint8.
            labels: (N,), whole numbers.
        """
        logits = self.network(self.prepare(images)).float()
        self.add_to_sums(self.loss(logits, labels), logits, labels)
        return logits


class LightningStep(TrainingStep):
    """The step by Lightning's own backward and optimizer calls.

    Several processes and callbacks with hooks around them need these.

    Args:
        backward: LightningModule.manual_backward.
        step_optimizer: steps Lightning's wrapper of the optimizer, which calls
            `clip_gradients` by a hook once the gradients are unscaled.
    """

    def __init__(
        self, *args: Any, backward: Callable, step_optimizer: Callable[[], Any], **options: Any
    ):
        super().__init__(*args, **options)
        self.lightning_backward, self.step_optimizer = backward, step_optimizer

    def backward(self, loss: Tensor, first: bool) -> None:
        if first:
            self.optimizer.zero_grad()
        self.lightning_backward(loss / self.accumulate if self.accumulate > 1 else loss)

    def update(self) -> None:
        self.step_optimizer()


# hooks of callbacks and modules that only Lightning's own calls run
HOOKS = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)


def overridden_hooks(parts: Sequence[Any], base: Sequence[type]) -> list[str]:
    """The names of parts that override one of `HOOKS` of their base classes."""
    names = []
    for part in parts:
        for hook in HOOKS:
            own = getattr(type(part), hook, None)
            if own is not None and all(own is not getattr(kind, hook, None) for kind in base):
                names.append(f"{type(part).__name__}.{hook}")
    return names
