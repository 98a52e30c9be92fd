"""What a fleet gains: `python -m benchmarks.fleet_speed`, on a GPU.

Each part runs `train.py` as a user does, in processes with a time limit, so that one that fails
loses no other. The answers go to stdout and, as JSON, to the file that is named.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.parts import Answers, parser_of

ROOT = Path(__file__).parents[1]
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Sweep:
    """A finished sweep over seeds, and how long it took."""

    def __init__(self, directory: Path, seconds: float):
        self.directory, self.seconds = directory, seconds
        self.results: list[dict[str, Any]] = []
        for file in sorted(directory.glob("outputs/sweep/*/result.json")):
            self.results.append(json.loads(file.read_text()))

    def images_per_second(self) -> float:
        """Of all jobs together, in the last epoch."""
        total = 0.0
        for file in self.directory.glob("outputs/sweep/*/metrics.csv"):
            with file.open(newline="") as rows:
                speeds = [row.get("speed/samples_per_second") for row in csv.DictReader(rows)]
            total += float([speed for speed in speeds if speed][-1])
        return total

    def accuracy(self) -> str:
        """Mean, standard deviation and standard error of the test accuracy, in percent."""
        values = [100 * result["accuracy"] for result in self.results]
        if len(values) < 2:
            return f"{values[0]:.2f}"
        deviation = statistics.stdev(values)
        error = deviation / len(values) ** 0.5
        return f"{statistics.mean(values):.3f}, deviation {deviation:.3f}, error {error:.3f}"


def sweep(folder: str, limit: float, *overrides: str) -> Sweep:
    """Run a sweep in an empty directory."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", "name=sweep", *overrides]
    begin = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    return Sweep(Path(folder), time.monotonic() - begin)


def throughput(common: list[str], quick: bool) -> dict[str, Any]:
    """Images a second of a captured run alone, and of fleets by their size."""
    steps = 4 if quick else 200
    options = [
        *common,
        "trainer.max_epochs=2",
        f"trainer.limit_train_batches={steps}",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "callbacks.dashboard=null",
    ]
    answers: dict[str, Any] = {}
    for recipe in ("baseline", "best"):
        with tempfile.TemporaryDirectory() as folder:
            alone = sweep(folder, 60, *options, f"experiment={recipe}", "seed=1")
            answers[f"{recipe}, alone"] = round(alone.images_per_second())
        for size in SIZES[:2] if quick else SIZES:
            with tempfile.TemporaryDirectory() as folder:
                seeds = f"seed=range(1,{size + 1})"
                own = (f"experiment={recipe}", seeds, "launcher=fleet", f"jobs={size}")
                fleet = sweep(folder, 60, *options, *own)
                answers[f"{recipe}, fleet of {size}"] = round(fleet.images_per_second())
    return answers


def best(common: list[str], quick: bool) -> dict[str, Any]:
    """24 seeds of `best` for 20 epochs, from launch to leaderboard."""
    options = [*common, "experiment=best", "launcher=fleet"]
    options += ["seed=range(101,103)" if quick else "seed=range(101,125)"]
    if quick:
        options += ["trainer.max_epochs=1", "trainer.limit_train_batches=4"]
    with tempfile.TemporaryDirectory() as folder:
        done = sweep(folder, 150, *options)
    training = max(result["train_seconds"] for result in done.results)
    return {"seconds": done.seconds, "of training": training, "accuracy": done.accuracy()}


def fast(common: list[str], quick: bool) -> dict[str, Any]:
    """Ten seeds of `fast` as a fleet and one after the other, from launch to leaderboard."""
    options = [*common, "experiment=fast"]
    options += ["seed=range(101,103)" if quick else "seed=range(101,111)"]
    if quick:
        options += ["trainer.max_epochs=1", "trainer.limit_train_batches=4"]
    answers: dict[str, Any] = {}
    for launcher in ("fleet", "serial"):
        with tempfile.TemporaryDirectory() as folder:
            done = sweep(folder, 120, *options, f"launcher={launcher}")
        answers[f"{launcher}, seconds"] = done.seconds
        answers[f"{launcher}, accuracy"] = done.accuracy()
    return answers


PARTS = {"throughput": throughput, "best": best, "fast": fast}


def main() -> None:
    """Run the parts, one after the other."""
    program = "python -m benchmarks.fleet_speed"
    options = parser_of(program, __doc__, PARTS, "outputs/fleet.json").parse_args()
    answers = Answers(options.output)
    for part in options.only:
        try:
            answer = PARTS[part]([f"trainer={options.accelerator}"], options.quick)
        except (subprocess.TimeoutExpired, RuntimeError) as error:
            answer = {"failed": str(error)}
        answers.add(part, answer)


if __name__ == "__main__":
    main()
