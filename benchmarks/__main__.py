"""`python -m benchmarks`: measure the variants in turns, then print, store and draw the speeds."""

import argparse
import json
from pathlib import Path

from benchmarks import ON_CPU, ON_GPU, VARIANTS
from benchmarks.tables import draw, summarise, tables
from benchmarks.turns import ROOT, measure, workers
from cnnbp.config.error_line import errors_on_one_line
from cnnbp.files import replacing

FULL, QUICK = (20, 30), (10, 5)  # steps a turn, rounds


def main() -> None:
    """Measure; a full run of all variants also renews the files that are kept in the repository."""
    options = parse()
    steps, rounds = QUICK if options.quick else FULL
    steps, rounds = options.steps or steps, options.rounds or rounds
    with errors_on_one_line():
        with workers(
            options.only or all_variants(options.accelerator), options.accelerator, options.threads
        ) as started:
            results = summarise(measure(started, steps, rounds), steps)
        print(tables(results, options.markdown))
        kept = not (options.quick or options.only)
        if path := options.json or (kept and ROOT / "benchmarks" / "results.json"):
            with replacing(path) as file:
                json.dump(results, file, indent=1)
        if path := options.plot or (kept and ROOT / "docs" / "benchmark.png"):
            draw(results, path)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure training speed."
    )
    parser.add_argument(
        "--quick", action="store_true", help="about a minute, for a first look; writes no files"
    )
    parser.add_argument(
        "--only", type=names, metavar="a,d", help=f"some of {','.join(VARIANTS)}; writes no files"
    )
    parser.add_argument(
        "--steps",
        type=positive,
        help=f"training steps a turn; default: {FULL[0]}, quick {QUICK[0]}",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        help=f"turns for each variant; default: {FULL[1]}, quick {QUICK[1]}",
    )
    parser.add_argument(
        "--threads", type=positive, help="of the processor; default: torch's choice"
    )
    parser.add_argument(
        "--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: auto"
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: benchmarks/results.json"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="default: docs/benchmark.png")
    return parser.parse_args()


def all_variants(accelerator: str) -> list[str]:
    """What is measured where nothing is chosen."""
    if accelerator == "auto":
        import torch

        accelerator = "gpu" if torch.accelerator.is_available() else "cpu"
    return list(ON_GPU if accelerator == "gpu" else ON_CPU)


def names(text: str) -> list[str]:
    """Read a list of variants."""
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(
            f"no variant {unknown[0]!r}; choose from {','.join(VARIANTS)}"
        )
    return list(dict.fromkeys(chosen))


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
