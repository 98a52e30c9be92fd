"""A trace as a table: forward to be read down on the left, backward upwards on the right."""

from cnnbp.views.trace import Trace, TracedComponent

HEADS = (
    f"{'component':18} {'kind':16} {'output':>8} {'params':>7} {'field':>5} {'MACs':>10} "
    f"{'mean':>9} {'std':>8} {'zeros':>6}  | "
    f"{'|dL/dy|':>8} {'|dL/dw|':>8} {'update':>8} {'differ':>8}"
)
WAYS = f"{'':35}{' forward, downwards ':-^62} | {' backward, upwards ':-^37}"
RULE = "-" * len(HEADS)
NOTE = (
    "evaluation mode, float64 | update: |lr dL/dw| / |w| | "
    "differ: by hand from autograd, share of the largest"
)


def trace_table(trace: Trace, label: int) -> str:
    """Lay a trace out, a component a line, with the totals and the three likeliest classes."""
    lines = [WAYS, HEADS, RULE]
    lines.extend(_line(component) for component in trace)
    lines += [RULE, _total(trace), NOTE, _summary(trace, label)]
    return "\n".join(lines)


def _line(component: TracedComponent) -> str:
    output = component.output
    shape = "x".join(map(str, output.shape)) or "1"
    zeros = (output == 0).double().mean()
    backward = (
        component.gradient.norm().item(),
        component.weight_gradient,
        component.update,
        component.difference,
    )
    return (
        f"{component.name:18} {component.kind:16} {shape:>8} {component.parameters:>7,} "
        f"{component.field:>5} {component.macs:>10,} {output.mean():>9.4f} "
        f"{output.std(correction=0):>8.4f} {zeros:>6.1%}  | {' '.join(map(_number, backward))}"
    )


def _number(value: float | None) -> str:
    text = "" if value is None else f"{value:.1e}"
    return f"{text:>8}"


def _total(trace: Trace) -> str:
    parameters = sum(component.parameters for component in trace)
    macs = sum(component.macs for component in trace)
    gradient = sum((component.weight_gradient or 0) ** 2 for component in trace) ** 0.5
    return (
        f"{'total':43} {parameters:>7,} {'':5} {macs:>10,} {'':25}  | "
        f"{'':8} {gradient:>8.1e} {'':8} {_worst(trace):>8.1e}"
    )


def _summary(trace: Trace, label: int) -> str:
    *_, logits, loss = trace
    probabilities = logits.output.softmax(0)
    likeliest = []
    for label_read in probabilities.argsort(descending=True)[:3].tolist():
        likeliest.append(f"{label_read} ({probabilities[label_read]:.2%})")
    return (
        f"loss {loss.output:.3g} for {label} | read as {', '.join(likeliest)} | "
        f"by hand and autograd differ by at most {_worst(trace):.0e}"
    )


def _worst(trace: Trace) -> float:
    return max(component.difference for component in trace)
