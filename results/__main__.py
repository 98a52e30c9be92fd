"""`python -m results`: train what is missing, then renew the tables and pictures of all runs."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from cnnbp.config.compose import compose
from cnnbp.config.error_line import errors_on_one_line
from cnnbp.errors import UserError
from cnnbp.runs.run_record import RunRecord
from results import RECIPES, ROOT, SWEEPS, Sweep
from results.publish import publish

QUICK = ("trainer=smoke", "trainer.max_epochs=2", "data.batch_size=16", "data.eval_batch_size=100")


def main() -> None:
    """Train, then report."""
    options = parse()
    prefix, limits, docs = "", (), ROOT / "docs"
    if options.quick:
        prefix, limits, docs = "quick-", QUICK, Path("outputs")
    with errors_on_one_line():
        for name in options.only or RECIPES:
            overrides, seeds = SWEEPS[name]
            train(prefix + name, Sweep((*overrides, *limits), seeds[: options.seeds]))
        directories = {name: Path("outputs", prefix + name) for name in SWEEPS}
        publish(directories, docs, Path("outputs"))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m results",
        description="Train the recipes over seeds, then renew docs/results.md, accuracy.png and "
        "ablation.png. Started again, it goes on where it was. Rows that were not trained here, or "
        "with fewer seeds, stay as they are published.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SWEEPS,
        metavar="SWEEP",
        help=f"of {', '.join(SWEEPS)}; default: all but the last",
    )
    parser.add_argument(
        "--seeds", type=int, choices=range(1, 11), metavar="N", help="1 to 10; default: all"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two steps an epoch, to see it work; writes to outputs/",
    )
    return parser.parse_args()


def train(name: str, sweep: Sweep) -> None:
    """Run what is missing of a sweep below outputs/, with a bar over all its epochs.

    Raises:
        UserError: a job failed.
    """
    arguments = [
        "train.py",
        "-m",
        f"name={name}",
        *sweep.overrides,
        f"seed={','.join(map(str, sweep.seeds))}",
    ]
    print("python", shlex.join(arguments), flush=True)
    total = jobs(sweep) * max_epochs(sweep)
    done = sum(len(run.metrics) for run in RunRecord.below(Path("outputs", name)))
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    with (
        tqdm(total=total, initial=min(done, total), desc=name, unit="epoch") as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        for line in process.stdout:
            bar.update("batch_id=" in line)  # the line that ends an epoch
    if process.returncode:
        raise UserError(
            f"{name}: not all of it was trained; see error.txt and train.log below outputs/{name}"
        )


def jobs(sweep: Sweep) -> int:
    """How many runs a sweep has."""
    count = len(sweep.seeds)
    for override in sweep.overrides:
        count *= override.count(",") + 1
    return count


def max_epochs(sweep: Sweep) -> int:
    """How many epochs each run of a sweep has."""
    return compose(
        [override for override in sweep.overrides if "," not in override]
    ).trainer.max_epochs


if __name__ == "__main__":
    main()
