"""A small residual network in a file of one's own (He et al., 2016, with activation first)."""

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, and a shortcut past them."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, width, H, W) to the same shape."""
        return features + self.layers(features)


class Residual(nn.Module):
    """Maps images (N, C, H, W) to logits (N, K)."""

    def __init__(self, width: int = 16, blocks: int = 2, channels: int = 1, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of prepared images."""
        features = self.norm(self.blocks(self.stem(images))).relu()
        return self.head(self.pool(features).flatten(1))
