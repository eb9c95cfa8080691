"""Find the place in a step for an error that was raised without one.

The error's message names what is wrong: a path, a table, an expression, an option. This text is searched
in the step's config. Pure. The place is only used to show the line in the error.
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
"""Codes of errors of files and systems. If there is no better place, they point to the path."""


def place_of(step: Step, error: DataFlareError) -> Spot | None:
    """The place for an error of this step: the value that it quotes, else the path or expression that it
    mentions, else the option that it quotes, else the step's type."""
    config = step.node.get("config")
    best_spot = quoted(config, error.message) or mentioned(step, error)
    best_spot = best_spot or quoted_key(config, error.message)
    if best_spot is not None:
        return best_spot
    if error.code.startswith(_OUTSIDE):
        for key, _, spot in _leaves(config):
            if key in _PATHS:
                return spot
    return step.type_spot or step.spot


def quoted(config: Any, message: str) -> Spot | None:
    """The place of the config's value that a message quotes first, or None."""
    leaves = _leaves(config)
    matches = [
        (message.find(f"'{text}'"), spot) for _, text, spot in leaves if f"'{text}'" in message
    ]
    return min(matches, key=lambda each: each[0])[1] if matches else None


def quoted_key(config: Any, message: str) -> Spot | None:
    """The place of the first option of a config that a message quotes, or None."""
    keys = config if isinstance(config, dict) else ()
    return next((key_spot_of(config, key) for key in keys if f"'{key}'" in message), None)


def mentioned(step: Step, error: DataFlareError) -> Spot | None:
    """The place of the longest path or expression of a step that an error mentions, or None."""
    matches = [
        (len(text), spot)
        for key, text, spot in _leaves(step.node.get("config"))
        if _mentions(error.message, key, text)
    ]
    return max(matches, key=lambda each: each[0])[1] if matches else None


def _mentions(message: str, key: str, text: str) -> bool:
    """Whether a message has a text that is not ambiguous: a path, or more than one word."""
    if key not in _PATHS and re.search(r"\W", text) is None:
        return False
    searched = os.path.normpath(text) if key in _PATHS else text
    return re.search(rf"(?<![\w.]){re.escape(searched)}(?![\w])", message) is not None


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str, Spot]]:
    """The texts of a config, each with its key and its place."""
    if isinstance(node, dict):
        parts: Iterator[tuple[Any, Any]] = iter(node.items())
    elif isinstance(node, list):
        parts = enumerate(node)
    else:
        return
    for part, value in parts:
        value_key = part if isinstance(part, str) else key
        spot = spot_of(node, part)
        if isinstance(value, SourceText):
            spot = value.spot_of(0, len(value.template)) or spot
        if isinstance(value, str) and value and spot is not None:
            yield value_key, str(value), spot
        else:
            yield from _leaves(value, value_key)
