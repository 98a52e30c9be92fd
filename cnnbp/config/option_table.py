"""The table of all options, printed from their definitions."""

from typing import Any

from pydantic import TypeAdapter

from cnnbp.config.options import PARTS, SECTIONS
from cnnbp.errors import UserError

# JSON Schema's names of a value's bounds
BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "minItems": "{} of them",
}
TYPES = {"object": "a part or {}", "array": "list"}


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
    rows = []
    for key, schema in TypeAdapter(options).json_schema()["properties"].items():
        if not key.startswith("_"):
            description = schema.get("description", "")
            rows.append(f"  {key:24} {_allowed(schema):44} {description}".rstrip())
    return rows


def _allowed(schema: dict[str, Any]) -> str:
    """The type and the bounds of a value, such as `number >= 0 < 1`."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(alternative) for alternative in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    words = [TYPES.get(schema.get("type", "text"), schema.get("type", "text"))]
    if schema.get("items"):
        words.append(f"of {_allowed(schema['items'])}")
    for name, form in BOUNDS.items():
        if name in schema:
            words.append(form.format(schema[name]))
    return " ".join(words)
