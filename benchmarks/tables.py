"""From the workers' answers to figures, tables and a picture."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks import MEMORY_RATIOS, SPEED_RATIOS, VARIANTS
from cnnbp.figures.figure_file import figure

BATCH, EPOCH = 128, 60_000  # images


def summarise(answers: dict[str, list[dict]], steps: int) -> dict:
    """Collect the machine, each variant's speed and memory, and the ratios round by round."""
    last = {name: given[-1] for name, given in answers.items()}
    speeds = {
        name: [steps * BATCH / answer["seconds"] for answer in given]
        for name, given in answers.items()
    }
    variants = {
        name: {
            "title": VARIANTS[name].title,
            "form": last[name]["form"],
            "samples_per_second": spread(speeds[name]),
            "epoch_seconds": EPOCH / median(speeds[name]),
            "peak_mb": last[name]["peak_mb"],
            "rounds": speeds[name],
        }
        for name in answers
    }
    some = next(iter(last.values()))
    return {
        "machine": machine() | {"device": some["device"], "threads": some["threads"]},
        "steps": steps,
        "batch_size": BATCH,
        "variants": variants,
        "ratios": ratios(speeds, {name: [answer["peak_mb"]] for name, answer in last.items()}),
    }


def spread(values: list[float]) -> dict[str, float]:
    """The median, the smallest and the largest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(speeds: dict[str, list[float]], memory: dict[str, list[float]]) -> list[dict]:
    """Compare those variants that were measured; `reached`: the median keeps to the target."""
    found = []
    for what, targets, values, sign in (
        ("speed", SPEED_RATIOS, speeds, 1),
        ("memory", MEMORY_RATIOS, memory, -1),
    ):
        for (x, y), target in targets.items():
            if x in values and y in values:
                ratio = spread([a / b for a, b in zip(values[x], values[y], strict=True)])
                reached = sign * ratio["median"] >= sign * target
                found.append(
                    {"what": what, "of": x, "over": y, "target": target, "reached": reached} | ratio
                )
    return found


def machine() -> dict:
    """What was measured on and with."""
    model = platform.machine()
    with suppress(OSError, StopIteration):  # not Linux, or a processor without a name
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return {"processor": model, "cores": os.cpu_count(), "torch": version("torch")}


def tables(results: dict, markdown: bool) -> str:
    """What a person reads: the machine, a table of the variants and one of the ratios."""
    speeds = [("", "variant", "precision", "samples/s", "min to max", "s/epoch", "peak MB")]
    for name, variant in results["variants"].items():
        speed = variant["samples_per_second"]
        numbers = f"{speed['median']:,.0f}", f"{speed['min']:,.0f} to {speed['max']:,.0f}"
        numbers += f"{variant['epoch_seconds']:.2f}", f"{variant['peak_mb']:,.0f}"
        speeds.append((name, variant["title"], variant["form"], *numbers))
    compared = [("", "ratio of", "target", "reached", "median", "min to max")]
    for row in results["ratios"]:
        target = f"{'>=' if row['what'] == 'speed' else '<='} {row['target']:.2f}"
        numbers = f"{row['median']:.3f}", f"{row['min']:.3f} to {row['max']:.3f}"
        compared.append(
            (
                f"{row['of']} / {row['over']}",
                row["what"],
                target,
                "yes" if row["reached"] else "no",
                *numbers,
            )
        )
    parts = [
        describe(results),
        table(speeds, markdown),
        *[table(compared, markdown)] * (len(compared) > 1),
    ]
    return "\n\n".join(parts)


def describe(results: dict) -> str:
    """One line on the machine and the work."""
    here = results["machine"]
    rounds = len(next(iter(results["variants"].values()))["rounds"])
    return (
        f"{here['processor']}, {here['cores']} cores, {here['threads']} threads, "
        f"on {here['device']}, torch {here['torch']}; "
        f"{rounds} rounds of {results['steps']} steps of {results['batch_size']} images"
    )


def table(rows: list[tuple[str, ...]], markdown: bool) -> str:
    """Lay rows out below a heading; three columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(
        1, ["-" * width if i < 3 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(results: dict, path: Path) -> None:
    """Draw a bar for each variant: its median with the span from min to max."""
    variants = results["variants"]
    labels = [f"{variant['title']} ({name})" for name, variant in variants.items()]
    speeds = [variant["samples_per_second"] for variant in variants.values()]
    medians = [speed["median"] for speed in speeds]
    spans = [[s["median"] - s["min"] for s in speeds], [s["max"] - s["median"] for s in speeds]]
    colours = ["tab:blue" if title.startswith("cnnbp") else "tab:gray" for title in labels]
    with figure(path, width=9, height=1 + 0.5 * len(labels)) as axes:
        axes.barh(labels, medians, xerr=spans, color=colours, capsize=3)
        for place, speed in enumerate(speeds):
            axes.annotate(
                f"{speed['median']:,.0f}",
                (speed["max"], place),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set(xlabel="training images a second: median, and span over the rounds")
        axes.set_title(describe(results), fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
