"""All checks of training on a GPU in one call: `python -m benchmarks.gpu`.

Each part runs in a process of its own with a time limit, so that one that fails loses no other. The
answers go to stdout and, as JSON, to the file that is named. All of it takes less than 8 minutes,
and with --quick less than 100 seconds; where the time is up, what remains is left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import gpu_parts
from benchmarks.parts import Answers, parser_of

# the longest that each part may take, in seconds
LIMITS = {
    "parity": 80,
    "step": 60,
    "baseline": 75,
    "loops": 110,
    "fast": 75,
    "resume": 50,
    "precisions": 50,
}
# all of them
TOTAL, QUICK_TOTAL = 475, 95


def main() -> None:
    """Run the parts, one after the other."""
    parser = parser_of("python -m benchmarks.gpu", __doc__, LIMITS, "outputs/gpu.json")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        answer = getattr(gpu_parts, options.part)(options.accelerator, options.quick)
        options.output.write_text(json.dumps(answer))
        return
    answers = Answers(options.output)
    total = QUICK_TOTAL if options.quick else TOTAL
    for part in options.only:
        left = total - answers.seconds
        answers.add(part, run_part(part, options, min(LIMITS[part], left)))


def run_part(part: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own, for `limit` seconds at most.

    Returns:
        Its answer, or what went wrong.
    """
    if limit <= 0:
        return {"failed": "there was no time left"}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part]
        command += ["--output", str(answer), "--accelerator", options.accelerator]
        if options.quick:
            command.append("--quick")
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired as stopped:
            return {"failed": f"took more than {limit:.0f} s", "printed": _end(stopped.stderr)}
        if not answer.exists():
            return {"failed": _end(done.stderr), "printed": _end(done.stdout)}
        return json.loads(answer.read_text())


def _end(text: Any) -> str:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return (text or "")[-1500:]


if __name__ == "__main__":
    main()
