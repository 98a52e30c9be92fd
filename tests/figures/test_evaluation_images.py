"""Confusion matrix and worst mistakes, by their pixels: any number of classes, gray or colour."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnnbp.figures.evaluation_images import (
    GREEN,
    confusion_counts,
    confusion_matrix,
    mistake_sheet,
    worst_mistakes,
)

LONG_NAMES = ("aeroplane", "bird of prey", "cat")


def scores(predictions, classes, confidence=5.0):
    return confidence * F.one_hot(torch.tensor(predictions), classes).float()


def evaluated(classes, mistakes=30):
    """Each class predicted right twice, and some mistakes."""
    torch.manual_seed(classes)
    labels = torch.arange(classes).repeat(2).tolist()
    predictions = list(labels)
    for _ in range(mistakes):
        true, other = torch.randperm(classes)[:2].tolist()
        labels.append(true)
        predictions.append(other)
    return scores(predictions, classes), torch.tensor(labels)


def colours(picture):
    return {colour for _, colour in picture.getcolors(2**20)}


def test_counts_are_true_classes_down_and_predictions_across():
    logits, labels = scores([0, 2, 2, 1], 3), torch.tensor([0, 1, 2, 1])
    assert confusion_counts(logits, labels).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_mistakes_are_redder_the_more_often_they_occur():
    logits = scores([0, 1, 1, 2, 2, 0], 3)
    picture = confusion_matrix(logits, torch.tensor([0, 0, 0, 1, 2, 2]))
    cell = 350 // 4
    corners = {}
    for label in range(3):
        for predicted in range(3):
            place = ((predicted + 1) * cell + 1, (label + 1) * cell + 1)
            corners[label, predicted] = picture.getpixel(place)
    assert corners[0, 0] == corners[2, 2] == GREEN
    assert corners[0, 1] == (255, 95, 95)
    assert corners[1, 2] == corners[2, 0] == (255, 175, 175)
    assert corners[0, 2] == corners[1, 0] == (255, 255, 255)


@pytest.mark.parametrize("classes", [2, 3, 10, 40, 100])
@pytest.mark.parametrize("scale", [1, 2])
def test_any_number_of_classes_fits(classes, scale):
    logits, labels = evaluated(classes)
    names = [f"class number {label}" for label in range(classes)]
    for class_names in (None, names):
        picture = confusion_matrix(logits, labels, class_names, scale)
        assert picture.size == (350 * scale, 350 * scale)
        assert {GREEN, (255, 95, 95)} <= colours(picture)
        green = np.argwhere((np.asarray(picture) == GREEN).all(-1))
        # cells are whole pixels, so that many classes leave up to a third of the picture empty
        assert 2 / 3 * 350 * scale < green.max() < 350 * scale


def test_long_names_are_written_beside_and_above():
    logits, labels = evaluated(3)
    short = np.asarray(confusion_matrix(logits, labels, ("a", "b", "c")).convert("L"))
    long = np.asarray(confusion_matrix(logits, labels, LONG_NAMES).convert("L"))
    for part in (np.s_[:, :80], np.s_[:80, :]):
        assert (long[part] < 128).sum() > 2 * (short[part] < 128).sum()


def test_the_worst_mistakes_come_first():
    logits = scores([1, 0, 2, 1, 0], 3)
    logits[0] *= 2  # of these three mistakes the one that is most certain
    logits[4] *= 0.1
    labels = torch.tensor([0, 0, 2, 2, 1])
    assert worst_mistakes(logits, labels) == [0, 3, 4]
    assert worst_mistakes(logits, labels, count=1) == [0]


def test_gray_images_are_ink_on_paper_and_colours_stay():
    logits, labels = scores([1, 0], 2), torch.tensor([0, 1])
    gray = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    gray[:, :, 2, 2] = 200
    picture = np.asarray(mistake_sheet(logits, labels, gray).convert("L"))
    assert np.argwhere(picture[30:86, 7:63] == 0).min(0).tolist() == [14, 14]
    assert (picture[30:86, 7:63] == 255).sum() == 56 * 56 - 7 * 7

    colour = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    colour[:, 0] = 255
    sheet = mistake_sheet(logits, labels, colour, LONG_NAMES[:2], scale=2)
    assert sheet.size == (700, 720)
    assert sheet.getpixel((70, 100)) == (255, 0, 0)


def test_without_a_mistake_the_sheet_is_empty():
    logits, labels = scores([0, 1], 2), torch.tensor([0, 1])
    assert colours(mistake_sheet(logits, labels, torch.zeros(0, 1, 8, 8))) == {(255, 255, 255)}
