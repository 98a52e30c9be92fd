"""Curves on matplotlib axes: every point is drawn, and accuracies lie by their error."""

import pytest

from cnnbp.figures.curves import draw_curves

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def axes():
    figure, axes = pyplot.subplots()
    yield axes
    pyplot.close(figure)


def height(axes, value):
    return axes.transData.transform((0, value))[1]


def test_every_point_is_drawn(axes):
    lines = {"training": [(1, 0.5), (2, 0.9)], "test": [(2, 0.95)]}
    draw_curves(axes, "accuracy", lines)
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn == {"training": [(1, 0.5), (2, 0.9)], "test": [(2, 0.95)]}


def test_halving_the_error_is_the_same_distance_everywhere(axes):
    draw_curves(axes, "accuracy", {"test": [(1, 0.9), (2, 0.999)]})
    low, middle, high = (height(axes, accuracy) for accuracy in (0.96, 0.98, 0.99))
    assert middle - low == pytest.approx(high - middle)
    assert low < middle


def test_no_error_at_all_has_a_place(axes):
    draw_curves(axes, "accuracy", {"test": [(1, 0.9), (2, 1.0)]})
    assert height(axes, 1.0) == pytest.approx(height(axes, 0.9999))


@pytest.mark.parametrize("values", [(0.1,), (0.97, 0.994), (0.99901, 0.99902), (1.0, 1.0)])
def test_ticks_lie_between_the_values(axes, values):
    draw_curves(axes, "accuracy", {"test": list(enumerate(values))})
    ticks = axes.get_yticks()
    assert len(ticks) > 0
    assert min(values) - 1e-9 <= min(ticks) <= max(ticks) <= max(values) + 1e-9


@pytest.mark.parametrize("values", [(2.3, 0.02), (0.061, 0.064), (0.5, 0.5), (1e-7, 3.0)])
def test_losses_have_round_ticks_between_them(axes, values):
    draw_curves(axes, "loss", {"test": list(enumerate(values))})
    ticks = axes.get_yticks()
    assert len(ticks) > 1
    assert min(values) <= min(ticks) <= max(ticks) <= max(values)


def test_a_loss_of_zero_has_no_logarithm(axes):
    draw_curves(axes, "loss", {"test": [(1, 0.1), (2, 0.0)]})
    assert axes.get_yscale() == "linear"


def test_only_ten_lines_have_names(axes):
    lines = {f"run {number}": [(1, 0.5), (2, number / 20)] for number in range(1, 13)}
    draw_curves(axes, "accuracy", lines)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == list(lines)[:10]
    assert len(axes.lines) == 12
