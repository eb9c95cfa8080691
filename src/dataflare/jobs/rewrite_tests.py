"""Write the rows that came over the rows that a test expected, in the text of the workflow file.

Always true: only the text of an expectation's list changes; comments, layout and order elsewhere
stay as they are, byte by byte.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import yaml

from dataflare.errors import WorkflowError

_WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.@/-]*(?: [A-Za-z0-9_.@/-]+)*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off"}

Changes = Mapping[tuple[int, str], Sequence[Mapping[str, Any]]]
"""New rows by the line on which their test begins (from 1) and the expectation's name."""


def rewritten(text: str, changes: Changes) -> str:
    """The file's text with these expectations in place of the old ones. Raises WorkflowError (E0116)
    for one that stands in another file or is made by an alias."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    tests = _child(root, "tests")
    found: list[tuple[int, int, str]] = []
    left = dict(changes)
    for test in getattr(tests, "value", ()):
        expect = _child(test, "expect")
        for key, value in getattr(expect, "value", ()):
            rows = left.pop((test.start_mark.line + 1, key.value), None)
            if rows is not None:
                found.append(_replacement(text, key, value, rows))
    if left:
        _, name = next(iter(left))
        raise WorkflowError(
            f"the expectation '{name}' does not stand in this file itself",
            code="E0116",
            help="change it where it stands",
        )
    for start, end, new in sorted(found, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that an expectation names, in the order in which they appear."""
    return list(dict.fromkeys(str(column) for row in rows for column in row))


def _child(node: Any, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    return None


def _replacement(
    text: str, key: Any, value: Any, rows: Sequence[Mapping[str, Any]]
) -> tuple[int, int, str]:
    """Where an expectation's list stands, and what shall stand there."""
    start, end = value.start_mark.index, _end(text, value)
    if start < key.end_mark.index or text[start] == "&":
        raise WorkflowError(
            f"the expectation '{key.value}' is shared by an anchor, so it cannot be rewritten",
            code="E0116",
            help="write its rows out",
        )
    items = [_mapping(row) for row in rows]
    flow = f"[{', '.join(items)}]"
    fits = value.start_mark.column + len(flow) <= _WIDTH and value.flow_style
    inside_flow = _in_flow(text, key)
    if not items or fits or inside_flow:
        # A block list has its first dash on the line after its key: a flow list goes beside it.
        begin = start if value.flow_style else key.end_mark.index + 1
        return begin, end, flow if value.flow_style else f" {flow}"
    indent = value.start_mark.column if not value.flow_style else key.start_mark.column + 2
    pad = "\n" + " " * indent
    lines = pad.join(f"- {item}" for item in items)
    if not value.flow_style:
        return start, end, lines
    return key.end_mark.index + 1, end, pad + lines


def _in_flow(text: str, key: Any) -> bool:
    """Whether the mapping that holds the key is written in braces: the key then does not begin its
    line."""
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    return bool(text[begin : key.start_mark.index].strip(" -"))


def _end(text: str, node: Any) -> int:
    """Where a node's own text ends: a block's mark stands behind the blank lines that follow it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    is_block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return len(text[:end].rstrip()) if is_block else end


def _mapping(row: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{_scalar(name)}: {_value(value)}" for name, value in row.items()) + "}"


def _value(value: Any) -> str:
    """A value in YAML, so that reading it gives the same."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float(value)
        case Decimal():
            return json.dumps(str(value))
        case datetime() | date() | time():
            return json.dumps(value.isoformat().replace("+00:00", "Z"))
        case timedelta():
            return f"{value / timedelta(microseconds=1):.0f}us"
        case bytes():
            return json.dumps(base64.b64encode(value).decode())
        case Mapping():
            return _mapping(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    return _scalar(str(value))


def _float(value: float) -> str:
    if value != value:
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _scalar(text: str) -> str:
    """Text, plain where nothing else could be read from it."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)
