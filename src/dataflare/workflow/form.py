"""Checks for all parts of the file's form. They collect errors and never raise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.workflow.nodes import SpotMap, Unresolved, key_spot_of, kind_of, spot_of

NAME_MAX = 63


def reserved(name: str) -> str:
    """A step's name for internal use: one character longer than a file may write."""
    return name.ljust(NAME_MAX + 1, "_")


class Form:
    """Reads parts of one file. No error is added for a value whose variables are missing."""

    def __init__(self, errors: list[DataFlareError]) -> None:
        self.errors = errors

    def mapping(
        self, node: SpotMap, key: str, *, owner: str = "the workflow", spot: Spot | None = None
    ) -> SpotMap:
        """The mapping under a key. An empty one with the place `spot` if there is none."""
        value = node.get(key)
        if isinstance(value, SpotMap):
            return value
        if value is not None and not isinstance(value, Unresolved):
            self.wrong(f"'{key}' of {owner} must be a mapping", spot_of(node, key), value)
        return SpotMap(spot=key_spot_of(node, key) or spot)

    def keys(
        self,
        node: SpotMap,
        known: Iterable[str],
        owner: str,
        *,
        extensions: bool = False,
        help: Callable[[str, Iterable[str]], str | None] = did_you_mean,
    ) -> None:
        """Add an error for each unknown key. extensions: keys `x-...` are allowed, for values with
        anchors. help: returns the help for an unknown key."""
        for key in node:
            if key in known or (extensions and key.startswith("x-")):
                continue
            self.errors.append(
                WorkflowError(
                    f"unknown key '{short(key)}' in {owner}",
                    code="E0103",
                    spot=key_spot_of(node, key),
                    notes=[f"known keys: {', '.join(known)}"],
                    help=help(key, known) or "take it out",
                )
            )

    def missing(self, key: str, owner: str, spot: Spot | None, help: str | None = None) -> None:
        message = f"missing key '{key}' in {owner}"
        self.errors.append(WorkflowError(message, code="E0104", spot=spot, help=help))

    def wrong(self, message: str, spot: Spot | None, value: Any) -> None:
        if isinstance(value, Unresolved):
            return
        kind = kind_of(value) if value != "" else "empty text"
        self.errors.append(
            WorkflowError(
                message,
                code="E0105",
                spot=spot,
                notes=[f"found: {kind}"],
                help="write it in that form",
            )
        )

    def text(self, node: SpotMap, key: str, owner: str) -> str | None:
        """Optional text."""
        value = node.get(key)
        if value is None:
            return None
        if isinstance(value, dict | list):
            self.wrong(f"'{key}' of {owner} must be text", spot_of(node, key), value)
            return None
        return str(value)


def short(text: str) -> str:
    shortened = text if len(text) <= 70 else text[:67] + "..."
    return (
        shortened.encode("unicode_escape").decode()
        if not shortened.isprintable()
        else str(shortened)
    )


def better_name(text: str) -> str | None:
    better = (
        re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-").lstrip("0123456789_-")[:NAME_MAX]
    )
    return f"write '{better}'" if better else None
