"""Functions given as objects to `python` steps, under names that the step can load.

A function of an importable module keeps its name. One from a script, a notebook or another function
is kept here, under its own name: `dataflare.workflow.dsl.functions:NAME`.

Always true: a name that was given out leads to the same function as long as the process lives, for
who loads by name remembers; another function of that name gets a number behind it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_kept: dict[str, Callable[..., Any]] = {}


def name_of(function: Callable[..., Any]) -> str:
    """`module:name`, as the `python` step wants it."""
    module = getattr(function, "__module__", None) or "__main__"
    path = getattr(function, "__qualname__", type(function).__name__)
    spec = getattr(sys.modules.get(module), "__spec__", None)
    # A script has no spec of its name, whatever runs it: another process could not import it.
    if spec is not None and spec.name == module and _found(module, path) is function:
        return f"{module}:{path}"
    return f"{__name__}:{_keep(function, path)}"


def is_kept_here(name: str) -> bool:
    """Whether a function's name means nothing to another process."""
    return name.startswith(f"{__name__}:")


def _found(module: str, path: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _keep(function: Callable[..., Any], path: str) -> str:
    first = "kept_" + (re.sub(r"\W", "_", path.rpartition(".")[2]).strip("_") or "function")
    name, number = first, 1
    while _kept.setdefault(name, function) is not function:
        number += 1
        name = f"{first}_{number}"
    return name


def __getattr__(name: str) -> Callable[..., Any]:
    try:
        return _kept[name]
    except KeyError:
        raise AttributeError(f"no function '{name}' was given to a workflow here") from None
