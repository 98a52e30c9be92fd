"""Training speed beside the alternatives, measured in one run: `python -m benchmarks`."""

from typing import NamedTuple


class Variant(NamedTuple):
    """What is measured.

    `run`, as in module:function, is composed with the overrides where it has a config.
    """

    title: str
    run: str
    overrides: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


FLOAT32, AUTO, NO_DROPOUT = "trainer.precision=32-true", "trainer.precision=auto", "dropout=none"

VARIANTS = {
    "a": Variant("plain loop, as published", "plain:run"),
    "b": Variant("Lightning, as in tutorials", "tutorial:run"),
    "c": Variant("cnnbp, float32", "ours:run", (FLOAT32,)),
    "d": Variant("cnnbp", "ours:run", (AUTO,)),
    "d0": Variant("cnnbp, no dropout", "ours:run", (AUTO, NO_DROPOUT)),
    "e": Variant("bare loop of cnnbp's network", "ours:bare", (AUTO,)),
    "f": Variant("the six convolutions alone", "ours:floor", (AUTO,)),
    "g": Variant("cnnbp, without a C compiler", "ours:run", (AUTO,), (("CC", "none"),)),
    "h": Variant("cnnbp, eager step", "ours:run", (AUTO, "trainer.graph=false")),
}
# the kernel of (g) is not used on a GPU, and a step is captured nowhere else
ON_CPU = ("a", "b", "c", "d", "d0", "e", "f", "g")
ON_GPU = ("a", "b", "c", "d", "d0", "e", "h")

# samples/s of the first over samples/s of the second, and what that is to reach
SPEED_RATIOS = {
    ("c", "a"): 1.8,
    ("d", "a"): 3.0,
    ("d", "b"): 3.0,
    ("d0", "a"): 4.5,
    ("d", "e"): 0.96,
    ("d0", "f"): 0.65,
    ("d", "g"): 1.05,
    ("d", "h"): 1.0,
}
MEMORY_RATIOS = {("d", "a"): 1.0}  # not to be exceeded
