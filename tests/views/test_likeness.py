"""How much an image is like the training images of its class, against the plain formula."""

import numpy as np
import pytest
import torch

from cnnbp.data.datasets import MNIST
from cnnbp.views.likeness import Likeness


def vector(image: np.ndarray) -> np.ndarray:
    """The means over 3 x 3 pixels at every second place, of length 1."""
    padded = np.pad(image.astype(float), 1)
    means = np.array(
        [[padded[y : y + 3, x : x + 3].mean() for x in range(0, 28, 2)] for y in range(0, 28, 2)]
    )
    return means.ravel() / np.linalg.norm(means)


@pytest.fixture(scope="module")
def images():
    mnist = MNIST.load("unused")
    return mnist.train_images[:2000], mnist.train_labels[:2000]


def test_likeness_is_that_of_the_third_nearest_of_its_class(images):
    own, labels = images
    tried = MNIST.load("unused").test_images[:3]
    asked = torch.tensor([3, 7, 1])
    found = Likeness(own, labels).measure(tried, asked)
    for image, label, value in zip(tried, asked, found, strict=True):
        members = own[labels == label]
        cosines = sorted(vector(image.numpy()) @ vector(member.numpy()) for member in members)
        assert value == pytest.approx(cosines[-3], abs=1e-5)


def test_limit_is_what_two_of_a_hundred_do_not_reach(images):
    own, labels = images
    likeness = Likeness(own, labels)
    test = MNIST.load("unused")
    found = likeness.measure(test.test_images[:500], test.test_labels[:500])
    share = (found < likeness.doubtful_below).float().mean()
    assert 0 < share < 0.08


def test_class_without_training_images_is_like_nothing(images):
    own, labels = images
    likeness = Likeness(own[labels < 5], labels[labels < 5])
    assert likeness.measure(own[:1], torch.tensor([9])).item() == 0
