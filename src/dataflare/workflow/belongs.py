"""Help for a key in the wrong place: where it belongs. Pure, except that it imports a type's options."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from dataflare.errors import DataFlareError, did_you_mean, nearest
from dataflare.workflow.settings import ErrorHandling, Settings

_STEP = ("type", "inputs", "config", "error_handling", "description")
_SOURCE = ("schema", "event_time")
_END = ("rate",)


def help_in_config(key: str, known: Iterable[str]) -> str | None:
    """The help for an unknown key in a step's config."""
    if key in _STEP:
        return f"'{key}' belongs to the step: write it beside 'config', not in it"
    if key in _SOURCE:
        return f"'{key}' belongs to the source: write it beside 'config', not in it"
    if key in _END:
        return f"'{key}' belongs to a source or a destination: write it beside 'config', not in it"
    if key in ErrorHandling.model_fields:
        return f"'{key}' belongs in 'error_handling', beside 'config': {_handling(key)}"
    return did_you_mean(key, known) or _in_settings(key)


def help_in_step(key: str, known: Iterable[str], kind: str, type_: object) -> str | None:
    """The help for an unknown key in a step. kind: source, transformation or destination."""
    if key in ErrorHandling.model_fields:
        return f"'{key}' belongs in 'error_handling': {_handling(key)}"
    options = options_of(kind, type_) if isinstance(type_, str) else ()
    if key in options:
        return f"'{key}' is an option of '{type_}': write it in 'config'"
    if similar_key := did_you_mean(key, known):
        return similar_key
    if near := nearest(key, options):
        return f"did you mean '{near}'? It is an option of '{type_}': write it in 'config'"
    return _in_settings(key)


def help_in_workflow(key: str, known: Iterable[str]) -> str | None:
    """The help for an unknown key of the workflow."""
    if key in ErrorHandling.model_fields:
        return f"'{key}' belongs in 'settings': error_handling: {{{key}: ...}}"
    if key in Settings.model_fields:
        return f"'{key}' belongs in 'settings'"
    return did_you_mean(key, known)


def _handling(key: str) -> str:
    return f"error_handling: {{{key}: ...}}"


def _in_settings(key: str) -> str | None:
    if key not in Settings.model_fields:
        return None
    return f"'{key}' is a setting of the whole workflow: write it in 'settings'"


def options_of(kind: str, type_: str) -> set[str]:
    """The keys of a type's config. Empty for a type that is unknown or not installed; another check
    reports that."""
    try:
        if kind == "transformation":
            type_class = importlib.import_module("dataflare.operators.registry").step(type_)
        else:
            registry = importlib.import_module("dataflare.sdk.registry")
            type_class = getattr(registry, kind)(type_)
    except DataFlareError:
        return set()
    fields = type_class.Config.model_fields
    return {info.alias if isinstance(info.alias, str) else name for name, info in fields.items()}
