"""Find a step type by name, importing its file only then."""

from __future__ import annotations

import importlib

from dataflare.errors import PlanError, did_you_mean
from dataflare.operators.base import Step

_STEPS = {
    "map": "map:MapStep",
    "filter": "filter:FilterStep",
    "route": "route:RouteStep",
    "validate": "validate:ValidateStep",
    "flatten": "flatten:FlattenStep",
    "explode": "flatten:ExplodeStep",
    "parse": "parse:ParseStep",
    "mask": "mask:MaskStep",
    "sample": "sample:SampleStep",
    "limit": "limit:LimitStep",
    "deduplicate": "deduplicate:DeduplicateStep",
    "union": "union:UnionStep",
    "lookup": "lookup:LookupStep",
    "aggregate": "aggregate:AggregateStep",
    "python": "python:PythonStep",
}
LATER = ("join", "window", "sql", "wasm", "predict")
"""Step types of the format that this version cannot run yet; they are refused by name."""


def step_types() -> list[str]:
    """All step types that run, in the order of the format page."""
    return list(_STEPS)


def step(type_: str) -> type[Step]:
    """The definition of a step type. Raises PlanError (E0313)."""
    target = _STEPS.get(type_)
    if target is None:
        if type_ in LATER:
            raise PlanError(
                f"the step type '{type_}' is not available in this version",
                code="E0314",
                notes=[f"available: {', '.join(_STEPS)}"],
            )
        raise PlanError(
            f"unknown step type '{type_}'",
            code="E0313",
            notes=[f"known types: {', '.join(_STEPS)}"],
            help=did_you_mean(type_, _STEPS),
        )
    module, _, name = target.partition(":")
    found: type[Step] = getattr(importlib.import_module(f"dataflare.operators.{module}"), name)
    return found
