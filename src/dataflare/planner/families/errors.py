"""One error for a fault that several tables of a family have. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.errors import DataFlareError

_SHOWN = 20


def joined(
    errors: Sequence[DataFlareError], families: Mapping[str, Mapping[str, Any]]
) -> list[DataFlareError]:
    """The errors, where those that differ only in the table are one that lists the tables. families: by step, the names
    of its streams."""
    groups: dict[tuple[object, ...], list[tuple[DataFlareError, str]]] = {}
    for error in errors:
        family, _, stream = (error.step or "").partition(".")
        if stream not in families.get(family, {}):
            family, stream = error.step or "", ""
        said = error.message.replace(f"'{error.step}'", f"'{family}'") if stream else error.message
        same = (error.code, family, said, error.spot, *(() if stream else (id(error),)))
        groups.setdefault(same, []).append((error, stream))
    return [_one(group, same) for same, group in groups.items()]


def _one(group: Sequence[tuple[DataFlareError, str]], same: tuple[object, ...]) -> DataFlareError:
    first, stream = group[0]
    if len(group) == 1:
        return first
    error = copy.copy(first)
    _, family, said, *_ = same
    error.message, error.step = str(said), str(family)
    tables = [each for _, each in group]
    more = len(tables) - _SHOWN
    shown = ", ".join([*tables[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])
    error.notes = [f"so it is for the tables {shown}", *(f"'{stream}': {n}" for n in first.notes)]
    return error
