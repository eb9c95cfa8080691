"""Replace the expected rows of a test by the actual rows, in the text of the workflow file.

Always true: only values that differ are changed; additional rows are appended; rows that did not come
are removed with the comment on their line; all other text stays the same, byte by byte. A list without
comments is rewritten if its line would be too long.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import yaml

from dataflare.errors import WorkflowError
from dataflare.jobs.compare import Revision
from dataflare.workflow.scalars import plain_value

_WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.@/-]*(?: [A-Za-z0-9_.@/-]+)*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off"}

Changes = Mapping[tuple[int, str], Revision]
"""Revisions by the first line of their test (from 1) and the expectation's name."""

_Edit = tuple[int, int, str]
"""Start and end of the replaced text, and the new text."""


def rewritten(text: str, changes: Changes) -> str:
    """The file's text with these expectations revised. Raises WorkflowError (E0116) for an expectation
    that is in another file or comes from an alias."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    tests = _child(root, "tests")
    edits: list[_Edit] = []
    pending = dict(changes)
    for test in _children(tests):
        for key, value in _children(_child(test, "expect")):
            revision = pending.pop((test.start_mark.line + 1, key.value), None)
            if revision is not None:
                edits += _edits(text, key, value, revision)
    if pending:
        _, name = next(iter(pending))
        raise WorkflowError(
            f"the expectation '{name}' is not in this file",
            code="E0116",
            help="change it in the file that has it",
        )
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _child(node: Any, name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    return None


def _children(node: Any) -> Sequence[Any]:
    """The items of a list, or the pairs of a mapping; none of a text."""
    return node.value if isinstance(node, yaml.CollectionNode) else ()


def _edits(text: str, key: Any, value: Any, revision: Revision) -> list[_Edit]:
    """The edits of an expectation's list: row by row, or of the complete list."""
    if value.start_mark.index < key.end_mark.index or text[value.start_mark.index] == "&":
        raise _shared(key.value)
    if not value.value or not revision.rows:
        return [_whole(text, key, value, revision.rows)]
    edits = [*_changed(text, key.value, value, revision)]
    edits += _removed(text, value, revision.removed)
    edits += _added(text, value, [_mapping(row) for row in revision.added])
    start, end = value.start_mark, _end(text, value)
    grown = sum(len(new) - (until - since) for since, until, new in edits)
    one_line = value.flow_style and "\n" not in text[start.index : end]
    if one_line and start.column + end - start.index + grown > _WIDTH:
        return [_whole(text, key, value, revision.rows)]
    return edits


def _shared(name: str) -> WorkflowError:
    return WorkflowError(
        f"the expectation '{name}' is shared by an anchor, so it cannot be rewritten",
        code="E0116",
        help="write its rows out",
    )


def _changed(text: str, name: str, value: Any, revision: Revision) -> Iterator[_Edit]:
    """The edits of values that differ."""
    list_start = value.start_mark.index
    for i, columns in revision.changed.items():
        item = value.value[i]
        values_by_name = {key.value: (key, each) for key, each in item.value}
        for column, new in columns.items():
            key, old = values_by_name.get(column, (item, item))
            start = old.start_mark.index
            # An alias, or a merged key, has its text elsewhere.
            if old is item or key.start_mark.index < list_start or start < key.end_mark.index:
                raise _shared(name)
            if text[start : start + 1] == "&":
                raise _shared(name)
            quoted = old.style in ("'", '"') if isinstance(old, yaml.ScalarNode) else None
            missing = isinstance(old, yaml.ScalarNode) and old.end_mark.index == start
            space = " " if missing and text[start - 1] == ":" else ""
            yield start, _end(text, old), space + _value(new, quoted)


def _removed(text: str, value: Any, places: Sequence[int]) -> Iterator[_Edit]:
    """The edits that remove rows. In a block list their lines are removed."""
    items = value.value
    for i in places:
        start, end = items[i].start_mark.index, _end(text, items[i])
        if not value.flow_style:
            begin = text.rfind("\n", 0, start) + 1
            if text[begin:start].strip() != "-":
                begin = text.rfind("\n", 0, text.rfind("-", 0, start)) + 1
            after = text.find("\n", end) + 1
            yield begin, after or len(text), ""
        elif any(later not in places for later in range(i + 1, len(items))):
            yield start, items[i + 1].start_mark.index, ""
        else:
            before = _end(text, items[i - 1])
            between = text[before:start]
            # A comment after the comma belongs to the row before. YAML allows a comma at the end.
            yield (start if "#" in between else before), end, ""


def _added(text: str, value: Any, rows: Sequence[str]) -> Iterator[_Edit]:
    """The edits that append rows after the others, in the same style."""
    if not rows:
        return
    last = value.value[-1]
    start, end = last.start_mark.index, _end(text, last)
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    pad = text[text.rfind("\n", 0, start) + 1 : start]
    if not value.flow_style:
        indent = " " * value.start_mark.column
        yield line_end, line_end, "".join(f"\n{indent}- {row}" for row in rows)
    elif pad.strip():
        yield end, end, "".join(f", {row}" for row in rows)
    else:
        comma = "" if text[end:].lstrip().startswith(",") else ","
        lines = ",".join(f"\n{pad}{row}" for row in rows)
        line_rest = text[end:line_end].partition("#")[0]
        if "]" in line_rest or not text[end:line_end].strip(" ,"):
            yield end, end, comma + lines
        else:
            yield from [(end, end, comma), (line_end, line_end, lines)]


def _whole(text: str, key: Any, value: Any, rows: Sequence[Mapping[str, Any]]) -> _Edit:
    """The edit that rewrites the complete list."""
    start, end = value.start_mark.index, _end(text, value)
    items = [_mapping(row) for row in rows]
    flow = f"[{', '.join(items)}]"
    fits = value.start_mark.column + len(flow) <= _WIDTH and value.flow_style
    if not items or fits or _in_flow(text, key):
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
    """Whether the key's mapping is written in braces. The key is then not the first text of its line."""
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    return bool(text[begin : key.start_mark.index].strip(" -"))


def _end(text: str, node: Any) -> int:
    """The end of a node's text. PyYAML's end mark of a block is after the blank lines that follow it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    is_block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return len(text[:end].rstrip()) if is_block else end


def _mapping(row: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{_scalar(name)}: {_value(value)}" for name, value in row.items()) + "}"


def _value(value: Any, quoted: bool | None = None) -> str:
    """A value as YAML that is read as the same value. quoted: whether the text that it replaces has quotes,
    None if there is no such text."""
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
            return _decimal(value, quoted)
        case datetime() | date() | time():
            text = value.isoformat().replace("+00:00", "Z")
            return text if quoted is False and plain_value(text) == text else json.dumps(text)
        case timedelta():
            return f"{value / timedelta(microseconds=1):.0f}us"
        case bytes():
            return json.dumps(base64.b64encode(value).decode())
        case Mapping():
            return _mapping(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    return _text(str(value)) if quoted else _scalar(str(value))


def _decimal(value: Decimal, quoted: bool | None) -> str:
    """The number without quotes. With quotes if it would be read as another number, or if it had quotes."""
    text = f"{value:f}"
    parsed = plain_value(text)
    same = isinstance(parsed, int | float) and Decimal(repr(parsed)) == value
    return text if same and not quoted else json.dumps(text)


def _float(value: float) -> str:
    if value != value:
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _scalar(text: str) -> str:
    """Text, without quotes if it is then read as the same text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return _text(text)


def _text(text: str) -> str:
    """Text in quotes."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)
