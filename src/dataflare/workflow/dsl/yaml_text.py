"""A workflow's tree as YAML text that is read as the same tree.

Always true: text stays text and a number stays a number by the rules of our reader (YAML 1.2's core
schema), which differ from those of the library that writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dataflare.errors import ConfigError
from dataflare.workflow.scalars import plain_value

_BLOCK_DEPTH = 3
"""Sections, steps and their keys have separate lines. Values below may share a line."""

_LINE_MAX = 80


def to_yaml(tree: Mapping[str, Any]) -> str:
    """The text of a workflow file, keys in the order of the tree."""
    node = _Writer().represent_data(_plain(tree))
    _shape(node, 0)
    text: str = yaml.serialize(
        node, Dumper=yaml.SafeDumper, allow_unicode=True, width=10**9, indent=2
    )
    return text


def _plain(value: Any) -> Any:
    """The same value without places. Every text and map is a new object, so there are no aliases."""
    match value:
        case Mapping():
            return {_text(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case str():
            return _text(value)
    return value


def _text(value: str) -> str:
    return "".join(value)


class _Writer(yaml.representer.SafeRepresenter):
    def __init__(self) -> None:
        super().__init__(sort_keys=False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(writer: _Writer, value: str) -> yaml.ScalarNode:
    """Text, in quotes if our reader would read it as another type."""
    style: str | None = None
    if not isinstance(plain_value(value), str) or value in ("<<", "="):
        style = '"'
    elif "\n" in value:
        style = '"' if value != value.strip() or "\t" in value else "|"
    return writer.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _represent_float(writer: _Writer, value: float) -> yaml.ScalarNode:
    special = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
    text = repr(value)
    return writer.represent_scalar("tag:yaml.org,2002:float", special.get(text, text), style="")


_Writer.add_representer(str, _represent_text)
_Writer.add_representer(float, _represent_float)


def _shape(node: yaml.Node, depth: int) -> None:
    """Use block style for the upper levels, and one line for a small value below them."""
    if isinstance(node, yaml.MappingNode):
        node.flow_style = not node.value or (depth >= _BLOCK_DEPTH and _length(node) <= _LINE_MAX)
        for key, value in node.value:
            _shape(key, depth + 1)
            _shape(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        node.flow_style = not node.value or _length(node) <= _LINE_MAX
        for item in node.value:
            _shape(item, depth + 1)


def _length(node: yaml.Node) -> int:
    """The approximate length of a value on one line. Very large if the value has several lines."""
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 2 if "\n" not in node.value else 10**6
    if isinstance(node, yaml.MappingNode):
        return 2 + sum(_length(key) + _length(value) + 2 for key, value in node.value)
    return 2 + sum(_length(item) + 2 for item in node.value)


def refuse_own_connectors(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError (E0408) for a connector class that only this process has registered."""
    from dataflare.sdk import registry

    type_names = {
        "sources": registry.source_types(),
        "destinations": registry.destination_types(),
    }
    for section, types in type_names.items():
        for name, step in (tree.get(section) or {}).items():
            type_ = str(step.get("type"))
            if type_ not in types and registry.is_registered(section[:-1], type_):
                raise ConfigError(
                    f"the class of step '{name}' is known to this process only",
                    code="E0408",
                    step=name,
                    help='name it in the file: type: python, config: {function: "module:Class"}',
                )
