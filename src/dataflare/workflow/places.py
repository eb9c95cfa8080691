"""Where in a step an error belongs that was raised without its place.

Whoever raised it named what is wrong: a path, a table, an expression, an option. That text is
looked for in the step's config. Pure, and only for the picture in an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dataflare.errors import DataFlareError, Spot
from dataflare.model.text import SourceText
from dataflare.workflow.nodes import key_spot_of, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import Step

_PATHS = ("path", "paths")
_OUTSIDE = ("E05", "E06")
"""Codes of what is read from files and systems: without a better place, it belongs to the path."""


def place_of(step: Step, error: DataFlareError) -> Spot | None:
    """The place an error of this step points to: what it quotes, else the path or expression that
    it mentions, else the option that it quotes, else the step's type."""
    config = step.node.get("config")
    found = quoted(config, error.message) or mentioned(step, error)
    found = found or quoted_key(config, error.message)
    if found is not None:
        return found
    if error.code.startswith(_OUTSIDE):
        for key, _, spot in _leaves(config):
            if key in _PATHS:
                return spot
    return step.type_spot or step.spot


def quoted(config: Any, said: str) -> Spot | None:
    """The place of the value in a config that a message quotes first, or None."""
    leaves = _leaves(config)
    found = [(said.find(f"'{text}'"), spot) for _, text, spot in leaves if f"'{text}'" in said]
    return min(found, key=lambda each: each[0])[1] if found else None


def quoted_key(config: Any, said: str) -> Spot | None:
    """The place of the first option of a config that a message quotes, or None."""
    keys = config if isinstance(config, dict) else ()
    return next((key_spot_of(config, key) for key in keys if f"'{key}'" in said), None)


def mentioned(step: Step, error: DataFlareError) -> Spot | None:
    """The place of the longest path or expression of a step that an error mentions, or None."""
    named = [
        (len(text), spot)
        for key, text, spot in _leaves(step.node.get("config"))
        if _mentions(error.message, key, text)
    ]
    return max(named, key=lambda each: each[0])[1] if named else None


def _mentions(said: str, key: str, text: str) -> bool:
    """Whether a message holds a text that cannot be meant otherwise: a path, or more than a word."""
    if key not in _PATHS and re.search(r"\W", text) is None:
        return False
    wanted = os.path.normpath(text) if key in _PATHS else text
    return re.search(rf"(?<![\w.]){re.escape(wanted)}(?![\w])", said) is not None


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str, Spot]]:
    """The texts of a config, each with the key it stands under and its place."""
    if isinstance(node, dict):
        parts: Iterator[tuple[Any, Any]] = iter(node.items())
    elif isinstance(node, list):
        parts = enumerate(node)
    else:
        return
    for part, value in parts:
        below = part if isinstance(part, str) else key
        spot = spot_of(node, part)
        if isinstance(value, SourceText):
            spot = value.spot_of(0, len(value.template)) or spot
        if isinstance(value, str) and value and spot is not None:
            yield below, str(value), spot
        else:
            yield from _leaves(value, below)
