"""Find a step type by name, importing its file only then."""

from __future__ import annotations

import importlib
from pathlib import Path

from dataflare.errors import PlanError, did_you_mean
from dataflare.operators.base import Step
from dataflare.sdk import registry
from dataflare.sdk.context import Policy

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
    "history": "history:HistoryStep",
    "sort": "sort:SortStep",
    "union": "union:UnionStep",
    "lookup": "lookup:LookupStep",
    "join": "join:JoinStep",
    "aggregate": "aggregate:AggregateStep",
    "window": "window:WindowStep",
    "python": "python:PythonStep",
    "sql": "sql:SqlStep",
}
_NOT_REGISTERED = "a processor of your own is named by its place (module:Class), its entry point, or register(...)"
LATER = ("wasm", "predict")
"""Step types of the format that this version cannot run yet; they are refused by name."""


def step_types() -> list[str]:
    """All step types that run: those of the format page in its order, then installed processors."""
    return [*_STEPS, *(name for name in registry.processor_types() if name not in _STEPS)]


def step(type_: str, base: Path | None = None, policy: Policy | None = None) -> type[Step]:
    """The definition of a step type; a processor's is made of its class, which "package.module:Class"
    may name, sought in the folder `base` first.
    Raises PlanError (E0313, E0314), ConfigError (E0402, E0408, E0410, E0418)."""
    if ":" in type_:
        from dataflare.operators.processor import step_at

        return step_at(type_, base or Path(), policy or Policy())
    target = _STEPS.get(type_)
    if target is None:
        processor = registry.processor(type_)
        if processor is not None:
            from dataflare.operators.processor import step_of

            return step_of(processor)
        if type_ in LATER:
            raise PlanError(
                f"the step type '{type_}' is not available in this version",
                code="E0314",
                notes=[f"available: {', '.join(step_types())}"],
                help="leave the step out, or do its work with one of these",
            )
        raise PlanError(
            f"unknown step type '{type_}'",
            code="E0313",
            notes=[f"known types: {', '.join(step_types())}"],
            help=did_you_mean(type_, step_types()) or _NOT_REGISTERED,
        )
    module, _, name = target.partition(":")
    found: type[Step] = getattr(importlib.import_module(f"dataflare.operators.{module}"), name)
    return found
