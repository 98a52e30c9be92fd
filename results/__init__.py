"""The accuracy that the README states, from nothing: `make results`."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Sweep(NamedTuple):
    """What `train.py -m name=NAME` is given."""

    overrides: tuple[str, ...]
    seeds: tuple[int, ...] = tuple(range(101, 111))  # nothing was tuned with these


RECIPES = {
    "baseline": Sweep(("experiment=baseline",)),
    "fast": Sweep(("experiment=fast",)),
    "fast-3": Sweep(("experiment=fast", "trainer.max_epochs=3")),
    "fast-5": Sweep(("experiment=fast", "trainer.max_epochs=5")),
    "best": Sweep(("experiment=best",)),
}
VARIANTS = sorted(file.stem for file in (ROOT / "conf" / "ablation").glob("*.yaml"))
ABLATION = Sweep(
    ("experiment=fast", "data.val_size=10000", f"ablation={','.join(VARIANTS)}"),
    seeds=(1, 2, 3, 4, 5),
)
SWEEPS = RECIPES | {"ablation": ABLATION}
