"""A trace as a table: forward to be read down on the left, backward upwards on the right."""

from collections.abc import Sequence

from cnnbp.views.trace import Trace, TracedComponent

FORWARD_HEADS = ("component", "kind", "output", "params", "field", "MACs", "mean", "std", "zeros")
BACKWARD_HEADS = ("|dL/dy|", "|dL/dw|", "update", "differ")
HEADS = (*FORWARD_HEADS, *BACKWARD_HEADS)
# of the columns, in characters
NARROWEST = (18, 16, 8, 7, 5, 10, 9, 8, 6, 8, 8, 8, 8)
# so many columns
LEFT_ALIGNED = 2
NOTE = (
    "evaluation mode, float64 | update: |lr dL/dw| / |w| | "
    "differ: by hand from autograd, share of the largest"
)
NOT_BY_HAND = "autograd"
LIKELIEST = 3


def trace_table(trace: Trace) -> str:
    """Lay a trace out, a component a line, with the totals and the three likeliest classes."""
    rows = [_cells(component) for component in trace.components]
    rows.append(_total(trace))
    widths = list(NARROWEST)
    for row in rows:
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    heads = _line(HEADS, widths)
    rule = "-" * len(heads)
    *lines, total = (_line(row, widths) for row in rows)
    parts = [_directions(heads, widths), heads, rule, *lines, rule, total]
    return "\n".join([*parts, _note(trace), _summary(trace)])


def _directions(heads: str, widths: Sequence[int]) -> str:
    """A line above the heads that says in which direction each half is read."""
    named = sum(widths[:LEFT_ALIGNED]) + LEFT_ALIGNED
    border = heads.index("|")
    forward = " forward, downwards ".center(border - named - 1, "-")
    backward = " backward, upwards ".center(len(heads) - border - 2, "-")
    return f"{'':{named}}{forward} | {backward}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        aligned.append(f"{cell:<{width}}" if column < LEFT_ALIGNED else f"{cell:>{width}}")
    border = len(FORWARD_HEADS)
    return f"{' '.join(aligned[:border])}  | {' '.join(aligned[border:])}"


def _cells(component: TracedComponent) -> list[str]:
    output = component.output
    zeros = (output == 0).double().mean()
    return [
        component.name,
        component.kind,
        "x".join(map(str, output.shape)) or "1",
        f"{component.parameters:,}",
        f"{component.field}",
        f"{component.macs:,}",
        f"{output.mean():.4f}",
        f"{output.std(correction=0):.4f}",
        f"{zeros:.1%}",
        _number(component.gradient.norm().item()),
        _number(component.weight_gradient),
        _number(component.update),
        _number(component.difference) if component.by_hand else NOT_BY_HAND,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _total(trace: Trace) -> list[str]:
    parameters = sum(component.parameters for component in trace.components)
    macs = sum(component.macs for component in trace.components)
    gradient = sum((component.weight_gradient or 0) ** 2 for component in trace.components) ** 0.5
    cells = dict.fromkeys(HEADS, "")
    cells |= {"component": "total", "params": f"{parameters:,}", "MACs": f"{macs:,}"}
    cells |= {"|dL/dw|": _number(gradient), "differ": _number(_worst(trace))}
    return list(cells.values())


def _note(trace: Trace) -> str:
    if all(component.by_hand for component in trace.components):
        return NOTE
    return f"{NOTE}; {NOT_BY_HAND}: no equations"


def _summary(trace: Trace) -> str:
    loss = trace.components[-1].output
    likeliest = []
    for label in trace.probabilities.argsort(descending=True)[:LIKELIEST].tolist():
        likeliest.append(f"{trace.class_names[label]} ({trace.probabilities[label]:.2%})")
    return (
        f"loss {loss:.3g} for {trace.class_names[trace.label]} | "
        f"predicted {', '.join(likeliest)} | "
        f"by hand and autograd differ by at most {_worst(trace):.0e}{_where(trace)}"
    )


def _where(trace: Trace) -> str:
    """To how many of the components the comparison extends, where it is not to all."""
    covered = sum(component.by_hand for component in trace.components)
    if covered == len(trace.components):
        return ""
    return f" in the {covered} of {len(trace.components)} components that have equations"


def _worst(trace: Trace) -> float:
    return max(component.difference for component in trace.components if component.by_hand)
