"""Names of functions that are passed as objects to `python` steps, so that the step can load them.

A function of an importable module keeps its name. A function of a script, a notebook or another
function is stored here as `dataflare.workflow.dsl.functions:NAME`.

Always true: a name refers to the same function as long as the process lives, because the step's loader
caches by name; another function of the same name gets a number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

_functions: dict[str, Callable[..., Any]] = {}


def name_of(function: Callable[..., Any]) -> str:
    """The function's name as `module:name`, for the `python` step."""
    module = getattr(function, "__module__", None) or "__main__"
    path = getattr(function, "__qualname__", type(function).__name__)
    spec = getattr(sys.modules.get(module), "__spec__", None)
    # A script has no module spec with its name, so another process could not import it.
    if spec is not None and spec.name == module and _attribute_at(module, path) is function:
        return f"{module}:{path}"
    return f"{__name__}:{_store(function, path)}"


def is_local_name(name: str) -> bool:
    """Whether only this process can load the function of this name."""
    return name.startswith(f"{__name__}:")


def _attribute_at(module: str, path: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def _store(function: Callable[..., Any], path: str) -> str:
    first = "kept_" + (re.sub(r"\W", "_", path.rpartition(".")[2]).strip("_") or "function")
    name, number = first, 1
    while _functions.setdefault(name, function) is not function:
        number += 1
        name = f"{first}_{number}"
    return name


def __getattr__(name: str) -> Callable[..., Any]:
    try:
        return _functions[name]
    except KeyError:
        raise AttributeError(f"no function '{name}' was given to a workflow here") from None
