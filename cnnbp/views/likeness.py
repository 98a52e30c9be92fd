"""How much an image looks like the training images of the class that it was read as."""

import torch
from torch import Tensor
from torch.nn import functional as F

# of the nearest training images the one that counts: a single odd one decides nothing
NEIGHBOUR = 3
# share of the data set's own images that are less like their class than what is doubted
DOUBTED = 0.02
# every so many images measure that share
STRIDE = 100


class Likeness:
    """Training images to compare others with; the network has no part in it.

    The likeness of an image is the cosine of its angle to the third nearest training image of its
    class, both averaged over 3 x 3 pixels. `doubtful_below` is the likeness that 2 % of the
    training images do not reach, each compared with the others.

    Args:
        images: (N, H, W), uint8.
        labels: (N,), whole numbers.
    """

    def __init__(self, images: Tensor, labels: Tensor):
        vectors = _vectors(images)
        self.of_class = {}
        own = []
        for label in labels.unique().tolist():
            members = vectors[labels == label]
            self.of_class[label] = members
            # each finds itself first
            own.append(_neighbour(members[::STRIDE], members, NEIGHBOUR + 1))
        self.doubtful_below = torch.cat(own).quantile(DOUBTED).item()

    def measure(self, images: Tensor, labels: Tensor) -> Tensor:
        """The likeness of images (N, H, W), uint8, to their classes (N,): (N,), in [0, 1]."""
        vectors = _vectors(images)
        found = torch.zeros(len(images))
        for k, label in enumerate(labels.tolist()):
            # a class without training images is like nothing
            if label in self.of_class:
                found[k] = _neighbour(vectors[k : k + 1], self.of_class[label], NEIGHBOUR)[0]
        return found


def _vectors(images: Tensor) -> Tensor:
    """Unit vectors (N, D) of images."""
    means = [F.avg_pool2d(part[:, None].float(), 3, 2, 1).flatten(1) for part in images.split(5000)]
    return F.normalize(torch.cat(means))


def _neighbour(vectors: Tensor, members: Tensor, rank: int) -> Tensor:
    rank = min(rank, len(members))
    return (vectors @ members.T).topk(rank).values[:, -1]
