"""What the programs of several parts have in common: their options, and how an answer is told."""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def parser_of(
    program: str, description: str | None, parts: Iterable[str], output: str
) -> argparse.ArgumentParser:
    """The options of a program whose parts can be run one by one.

    Args:
        output: the file of the answers, by default.
    """
    names = list(parts)
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", default=names)
    parser.add_argument("--quick", action="store_true", help="few steps, to see it work")
    parser.add_argument("--accelerator", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--output", type=Path, default=Path(output))
    return parser


class Answers:
    """The answers of parts so far, in a JSON file and on the terminal.

    Args:
        output: the file, written anew with each answer.
    """

    def __init__(self, output: Path):
        output.parent.mkdir(parents=True, exist_ok=True)
        self.output, self.begin = output, time.monotonic()
        self.parts: dict[str, Any] = {}

    @property
    def seconds(self) -> float:
        """The time since the first part began."""
        return time.monotonic() - self.begin

    def add(self, part: str, answer: dict[str, Any]) -> None:
        """Store and print what a part has found."""
        self.parts[part] = answer
        self.output.write_text(json.dumps(self.parts, indent=1))
        print(f"[{self.seconds:6.1f} s] {part}", flush=True)
        for key, value in answer.items():
            print(f"    {key}: {value}", flush=True)
