"""Parts that no definition describes are checked by what they declare."""

import pytest
from omegaconf import OmegaConf

from cnnbp.config.own_arguments import check_call
from cnnbp.errors import UserError


class Part:
    def __init__(
        self,
        width: int,
        rate: float = 0.1,
        sizes: tuple[int, ...] = (1, 2),
        name: str | None = None,
        loose=None,
        limit: int = None,  # noqa: RUF013
        other: "Unknown" = None,  # noqa: F821
    ):
        self.width = width


def typed(width: int, rate: float = 0.1, sizes: tuple[int, ...] = (1, 2), name: str | None = None):
    return width


class TakesAnything:
    def __init__(self, width: int = 1, **others):
        self.width = width


def check(target, place="model.network", is_partial=False, **values):
    part = OmegaConf.create({"_target_": f"{__name__}.{target}", **values})
    check_call(place, part, is_partial)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 3},
        {"width": 3, "rate": 1, "sizes": [1, 2, 3], "name": None},
        {"width": {"_target_": "torch.nn.ReLU"}},
    ],
)
def test_right_values_pass(values):
    check("typed", **values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": "a"}, "model.network.width=a: must be a valid integer"),
        ({"width": True}, "model.network.width=True: must be a valid integer"),
        ({"width": 1, "rate": "0.1"}, "model.network.rate=0.1: must be a valid number"),
        ({"width": 1, "sizes": [1, "b"]}, r"model.network.sizes=\[1, 'b'\]: .* at index 1"),
        ({"width": 1, "name": 5}, "model.network.name=5: must be a valid string"),
        ({"width": 1, "depth": 5}, "model.network.depth: .*typed takes no such key, but width,"),
        ({"rate": 1}, r"model.network.width: .*typed needs it; add it as \+model.network.width="),
    ],
)
def test_wrong_values_are_named(values, said):
    with pytest.raises(UserError, match=said):
        check("typed", **values)


def test_what_is_not_declared_passes():
    check("TakesAnything", depth=3)
    # one annotation that cannot be read leaves all of them unread
    check("Part", width="a", loose="b")
    check("Nothing", width="a")


def test_training_adds_what_a_partial_part_lacks():
    check("typed", is_partial=True)
    with pytest.raises(UserError, match=r"optimizer\._partial_=true '\+optimizer\.KEY"):
        check("typed", place="optimizer", is_partial=True, depth=3)


def test_the_default_passes_whatever_is_declared():
    def target(limit: int = None):  # noqa: RUF013
        return limit

    globals()["target"] = target
    check("target", limit=None)
    with pytest.raises(UserError, match="limit=x"):
        check("target", limit="x")
