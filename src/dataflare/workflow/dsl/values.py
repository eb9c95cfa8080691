"""Convert Python values to the maps, lists and texts with places that the loader reads.

Always true: the result has only values that YAML has, so that a workflow can be written as a file; an
option that is None counts as not set.
"""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.errors import ConfigError
from dataflare.model.text import SourceText
from dataflare.model.types import DataType, Schema
from dataflare.workflow.dsl.call_site import CallSite
from dataflare.workflow.nodes import SpotList, SpotMap

_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000))


def set_options(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def as_tree(value: Any, site: CallSite | None) -> Any:
    """The value as part of a workflow. site: the call that has the value.

    Raises ConfigError (E0405) for a value that a workflow file cannot have.
    """
    match value:
        case SpotMap() | SpotList() | SourceText() | None | bool():
            return value
        case int() | float():
            return value
        case str():
            return site.value(str(value)) if site else SourceText(str(value))
        case Mapping():
            return _mapping(value, site)
        case Schema():
            return _mapping(value.to_json(), site)
        case list() | tuple() | set() | frozenset():
            return _sequence(sorted(value) if isinstance(value, set | frozenset) else value, site)
    return as_tree(_as_text(value, site), site)


def _mapping(value: Mapping[Any, Any], site: CallSite | None) -> SpotMap:
    spot_map = SpotMap(spot=site.spot if site else None)
    for key, item in value.items():
        inner = as_tree(item, site)
        place = getattr(inner, "spot", None) or (site.key(str(key)) if site else None)
        spot_map.put(str(key), inner, site.key(str(key)) if site else None, place)
    return spot_map


def _sequence(value: Sequence[Any], site: CallSite | None) -> SpotList:
    spot_list = SpotList(spot=site.spot if site else None)
    for item in value:
        inner = as_tree(item, site)
        spot_list.put(inner, getattr(inner, "spot", None) or (site.spot if site else None))
    return spot_list


def _as_text(value: Any, site: CallSite | None) -> str:
    match value:
        case os.PathLike():
            return str(os.fspath(value))
        case datetime.datetime() | datetime.date() | datetime.time():
            return str(value.isoformat())
        case datetime.timedelta():
            return duration(value)
        case decimal.Decimal() | DataType():
            return str(value)
    ref = getattr(value, "ref", None)
    if isinstance(ref, str):
        return ref
    raise ConfigError(
        f"a value of the type {type(value).__name__} cannot be part of a workflow",
        code="E0405",
        spot=site.spot if site else None,
        notes=["a workflow holds text, numbers, booleans, times, paths, lists and mappings"],
        help="pass your own rows to `Workflow.frame`, and code to a `python` step",
    )


def duration(value: datetime.timedelta) -> str:
    """A duration as the file format writes it, in the greatest unit that gives a whole number."""
    micros = value // datetime.timedelta(microseconds=1)
    for unit, size in _UNITS:
        if micros and micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros // 1000}ms" if micros % 1000 == 0 else f"{micros}us"
