"""The published experiment in plain PyTorch: a DataLoader over samples, a bar each step."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

import cnnbp

MNIST_FILE = Path(cnnbp.__file__).parent / "data" / "mnist.npz"


class Digits(Dataset):
    """The embedded training images, one by one as torchvision's `datasets.MNIST` gives them."""

    def __init__(self):
        with np.load(MNIST_FILE) as arrays:
            self.data, self.targets = (
                torch.from_numpy(arrays[name]) for name in ("train_images", "train_labels")
            )
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target = Image.fromarray(self.data[index].numpy()), int(self.targets[index])
        return self.transform(image), target


def loader(accelerator: str) -> DataLoader:
    """Shuffled batches of 128, with the options that PyTorch's MNIST example has for a GPU."""
    options = {"num_workers": 1, "pin_memory": True} if accelerator == "gpu" else {}
    return DataLoader(Digits(), batch_size=128, shuffle=True, **options)


def network() -> nn.Sequential:
    """The published network, images (N, 1, 28, 28) to log-probabilities (N, 10)."""

    def block(inputs, outputs, kernel, stride, *dropout):
        return (
            nn.Conv2d(inputs, outputs, kernel, stride, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
            *dropout,
        )

    return nn.Sequential(
        *block(1, 32, 5, 1, nn.Dropout(0.05)),
        *block(32, 24, 3, 1, nn.Dropout(0.1)),
        *block(24, 16, 3, 2, nn.Dropout(0.1)),
        *block(16, 24, 3, 2, nn.Dropout(0.1)),
        *block(24, 16, 3, 1),
        nn.Conv2d(16, 10, 3),
        nn.AvgPool2d(5),
        nn.Flatten(),
        nn.LogSoftmax(dim=1),
    )


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The published one."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def step(model: nn.Module, sgd: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """Take one step of training and return the loss."""
    sgd.zero_grad()
    loss = F.nll_loss(model(images), labels)
    loss.backward()
    sgd.step()
    return loss


def run(gate, directory, overrides) -> None:
    """Train for as long as the gate lets steps through."""
    model = network().to(gate.device).train()
    batches, sgd = loader(gate.accelerator), optimizer(model)
    while True:
        bar = tqdm(batches)
        for index, (images, labels) in enumerate(bar):
            gate.step()
            loss = step(model, sgd, images.to(gate.device), labels.to(gate.device))
            bar.set_description(f"loss={loss.item()} batch_id={index}")
