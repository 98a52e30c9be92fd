"""The table of all options, printed from their definitions."""

from typing import Any

from pydantic import TypeAdapter

from cnnbp.config.options import PARTS, SECTIONS
from cnnbp.errors import UserError

TYPES = {"object": "a part or {}", "array": "list", "string": "text"}


def print_options(part: str | None = None) -> None:
    """Print every option with what it may be.

    Args:
        part: only the parts whose title contains this text, in upper or lower case.

    Raises:
        UserError: no part is called so.
    """
    tables = []
    for options in dict.fromkeys([*SECTIONS.values(), *PARTS.values()]):
        title = options.__doc__.replace("`", "")
        if part is None or part.lower() in title.lower():
            tables.append("\n".join([title, *_rows(options)]))
    if not tables:
        raise UserError(f"options {part}: no such part; python -m cnnbp options lists them all")
    print("\n\n".join(tables))


def _rows(options: Any) -> list[str]:
    cells = []
    for key, schema in TypeAdapter(options).json_schema()["properties"].items():
        if not key.startswith("_"):
            cells.append((key, _allowed(schema), schema.get("description", "")))
    key_width = max(len(key) for key, _, _ in cells)
    allowed_width = max(len(allowed) for _, allowed, _ in cells)
    rows = []
    for key, allowed, description in cells:
        rows.append(f"  {key:{key_width}}  {allowed:{allowed_width}}  {description}".rstrip())
    return rows


def _allowed(schema: dict[str, Any]) -> str:
    """What a value may be, such as `number in [0, 1)`, from its JSON Schema."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(alternative) for alternative in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "text")
    if kind == "array" and schema.get("items"):
        return f"list of {schema.get('minItems', 'any number')}: {_allowed(schema['items'])}"
    return f"{TYPES.get(kind, kind)} {_bounds(schema)}".rstrip()


def _bounds(schema: dict[str, Any]) -> str:
    """The bounds of a number; of an interval a round bracket leaves its end out."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None and high is None:
        return ""
    if high is None:
        return f">= {low}" if "minimum" in schema else f"> {low}"
    start = "[" if "minimum" in schema else "("
    end = "]" if "maximum" in schema else ")"
    return f"in {start}{low}, {high}{end}"
