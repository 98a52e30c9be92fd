"""One variant in a process of its own: `python -m benchmarks.worker VARIANT DIRECTORY ACCELERATOR`.

It reads numbers of steps from stdin and answers each with a line of JSON; everything else that is
printed goes to the terminal that stderr is.
"""

import importlib
import json
import resource
import sys
import time

import torch

from benchmarks import VARIANTS


class Gate:
    """Stops a variant between its segments of steps, and tells what a segment took.

    The clock runs from the first step of a segment until the variant asks for the step after its
    last, and thus counts all that happens in between: data, logging, progress bar.
    """

    def __init__(self, accelerator: str, answers):
        has_gpu = torch.accelerator.is_available()
        if accelerator == "gpu" and not has_gpu:
            sys.exit("--accelerator gpu: torch finds no GPU here")
        self.accelerator = accelerator if accelerator != "auto" else "gpu" if has_gpu else "cpu"
        self.device = (
            torch.accelerator.current_accelerator()
            if self.accelerator == "gpu"
            else torch.device("cpu")
        )
        self.facts = {
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "form": "32-true",
        }
        self.answers, self.left, self.start = answers, 0, time.perf_counter()

    def step(self) -> None:
        """To be called in front of each step."""
        if not self.left:
            self.left = self.segment()
            self.start = time.perf_counter()
        self.left -= 1

    def segment(self) -> int:
        """End a segment and wait for the next; return its steps."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - self.start
        print(
            json.dumps(self.facts | {"seconds": seconds, "peak_mb": self.peak_mb()}),
            file=self.answers,
            flush=True,
        )
        return int(sys.stdin.readline() or sys.exit())

    def peak_mb(self) -> float:
        """The largest memory so far, that of the GPU where there is one."""
        if self.device.type != "cpu":
            return torch.accelerator.max_memory_allocated() / 1e6
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_name(device: torch.device) -> str:
    """The GPU's own name, or "cpu"."""
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def main(name: str, directory: str, accelerator: str) -> None:
    """Run a variant until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, function = VARIANTS[name].run.split(":")
    run = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    torch.manual_seed(1)
    run(Gate(accelerator, answers), directory, VARIANTS[name].overrides)


if __name__ == "__main__":
    main(*sys.argv[1:])
