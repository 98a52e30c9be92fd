"""Filters and feature maps, by their pixels."""

import numpy as np
import pytest
import torch

from cnnbp.figures.network_images import feature_maps, filters, to_gray


def test_filters_are_red_above_zero_and_blue_below():
    weight = torch.zeros(9, 3, 5, 5)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = 2, -1
    weight[2, 1] = 9  # not of the first input channel
    picture = np.asarray(filters(weight))
    assert picture.shape == (2 * 42, 8 * 42, 3)
    assert picture[2, 2].tolist() == [255, 0, 0]
    assert picture[2, 44].tolist() == [127, 127, 255]
    assert picture[2, 86].tolist() == [255, 255, 255]


def test_weights_of_a_linear_layer_are_drawn_as_images_and_not_too_many():
    picture = np.asarray(filters(torch.rand(100, 1, 28, 28)))
    assert picture.shape == (8 * (4 * 28 + 2), 8 * (4 * 28 + 2), 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 5), (13, 13), (28, 28), (30, 30), (5, 28), (30, 7), (1, 3)])
def test_maps_of_any_size_lie_below_their_image(channels, size):
    images = torch.rand(4, channels, 28, 28)
    picture = np.asarray(feature_maps(images, torch.rand(4, 2, *size)))
    assert picture.shape == (3 * 30, 4 * 30)
    expected = to_gray(images.mean(1, keepdim=True))[1, 0].mul(255).byte()
    assert picture[2:30, 32:60].tolist() == expected.tolist()


def test_a_channel_is_bright_where_it_is_largest():
    maps = torch.zeros(3, 2, 13, 13)
    maps[1, 0, 0, 0], maps[2, 0, 0, 0] = 4, 2
    picture = np.asarray(feature_maps(torch.rand(3, 1, 28, 28), maps))
    # 13 pixels are drawn as 26, in the middle of 28
    assert picture[33, 3::30].tolist() == [0, 255, 127]
    assert picture[35, 3::30].tolist() == [0, 0, 0]


def test_values_that_are_not_finite_are_drawn():
    maps = torch.full((2, 2, 7, 7), torch.nan)
    feature_maps(torch.rand(2, 1, 28, 28), maps)
    filters(torch.full((4, 1, 3, 3), torch.inf))


def test_a_flat_image_has_a_gray_value():
    assert to_gray(torch.full((2, 1, 3, 3), 7.0)).tolist() == torch.zeros(2, 1, 3, 3).tolist()
