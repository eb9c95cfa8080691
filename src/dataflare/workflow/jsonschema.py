"""The JSON Schema of the whole file, for editors: keys, values, descriptions, each type's config.

Always true: the schema accepts everything that `load` and `bind` accept, also variables and durations
(except a number or a boolean written as text). It accepts more, because it does not check the graph and
expressions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from dataflare.model.units import BYTE_RATE_PATTERN, RATE_PATTERN
from dataflare.observability.own_notifiers import notifier_kind, notifier_types
from dataflare.resilience.policy import RetryPolicy
from dataflare.sdk.streams import PLACES
from dataflare.workflow.alerts import AlertRule
from dataflare.workflow.build import VERSION
from dataflare.workflow.form import NAME_MAX
from dataflare.workflow.settings import ErrorHandling, EventTime, RateLimit, Settings

Json = dict[str, Any]

_VARIABLE = {"$ref": "#/$defs/variable"}
_ANYTHING = {"description": "any value"}
_PER_TABLE = {
    "description": "With {table} in the place of many tables: options of single tables, by name.",
    "type": "object",
    "additionalProperties": {"type": "object"},
}
_OWN_TYPES = {"integer", "number", "boolean"}


def json_schema(
    source_types: Mapping[str, type[BaseModel]],
    step_types: Mapping[str, type[BaseModel]],
    destination_types: Mapping[str, type[BaseModel]],
) -> Json:
    """The schema, draft 2020-12, from the config models of all types by name."""
    defs: Json = {"variable": _variable(), "inputs": _inputs()}
    for model in (Settings, ErrorHandling, EventTime, RateLimit, RetryPolicy, AlertRule):
        defs[model.__name__] = _model(model, model.__name__, defs)
    for kind in notifier_types():
        if (notifier := notifier_kind(kind)) is not None:
            defs[f"notifier.{kind}"] = _model(notifier, f"notifier.{kind}", defs)
    defs["source"] = _step(
        "source",
        "Where rows come from.",
        source_types,
        defs,
        {
            "schema": {
                "type": "object",
                "description": "The columns this source must have, by their Arrow types.",
                "additionalProperties": {"type": "string", "examples": ["int64", "string"]},
            },
            "event_time": {"$ref": "#/$defs/EventTime"},
            "rate": _rate(),
        },
    )
    inputs = {"inputs": {"$ref": "#/$defs/inputs"}}
    defs["transformation"] = _step(
        "transformation", "What happens to rows on the way.", step_types, defs, inputs
    )
    paced = {**inputs, "rate": _rate()}
    defs["destination"] = _step("destination", "Where rows go.", destination_types, defs, paced)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DataFlare workflow",
        "description": "Sources, transformations and destinations of one workflow.",
        "type": "object",
        "properties": _top(),
        "patternProperties": {"^x-": _ANYTHING},
        "additionalProperties": False,
        "$defs": defs,
    }


def _top() -> Json:
    text = {"type": "string"}
    return {
        "name": {
            "description": "Names the workflow's state and checkpoints.",
            "anyOf": [
                {"type": "string", "pattern": f"^[a-z][a-z0-9_-]{{0,{NAME_MAX - 1}}}$"},
                _VARIABLE,
            ],
        },
        "version": {"description": "Of this file format.", "enum": [VERSION, float(VERSION)]},
        "description": text,
        "include": {
            "description": "Other files that this one is merged over.",
            "anyOf": [text, {"type": "array", "items": text}],
        },
        "environments": {
            "description": "Parts that --env NAME merges over this file.",
            "type": "object",
            "additionalProperties": _environment(),
        },
        "params": {
            "description": "Typed parameters: --param NAME=VALUE.",
            "type": "object",
            "additionalProperties": _parameter(),
        },
        "settings": {"$ref": "#/$defs/Settings"},
        "sources": _section("source"),
        "transformations": _section("transformation"),
        "destinations": _section("destination"),
        "alerts": {
            "description": "When notifiers are told of the run.",
            "type": "array",
            "items": {"$ref": "#/$defs/AlertRule"},
        },
        "notifiers": {
            "description": "Who is told of alerts, by name.",
            "type": "object",
            "additionalProperties": _notifier(),
        },
        "tests": {"description": "Run by `dataflare test`.", "type": "array", "items": _test()},
    }


def _environment() -> Json:
    """A part of a workflow. Its steps may lack keys that the file has."""
    part = {"type": "object"}
    sections = ("params", "sources", "transformations", "destinations")
    return {
        "type": ["object", "null"],
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "settings": {"$ref": "#/$defs/Settings"},
            **{name: {**part, "additionalProperties": part} for name in sections},
            "alerts": {"type": "array", "items": {"$ref": "#/$defs/AlertRule"}},
            "notifiers": {**part, "additionalProperties": part},
            "tests": {"type": "array", "items": _test()},
        },
        "patternProperties": {"^x-": _ANYTHING},
        "additionalProperties": False,
    }


def _notifier() -> Json:
    return {
        "type": "object",
        "properties": {"type": {"enum": sorted(notifier_types())}},
        "required": ["type"],
        "allOf": [
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/notifier.{kind}"},
            }
            for kind in notifier_types()
        ],
    }


def _section(kind: str) -> Json:
    return {
        "description": f"{kind.capitalize()}s by name.",
        "type": "object",
        "propertyNames": {"pattern": f"^[A-Za-z_][A-Za-z0-9_-]{{0,{NAME_MAX - 1}}}$"},
        "additionalProperties": {"$ref": f"#/$defs/{kind}"},
    }


def _variable() -> Json:
    return {
        "title": "Variable",
        "description": "${NAME}, ${NAME:-default}, ${param:NAME} or ${secret:NAME}",
        "type": "string",
        "pattern": r"\$\{[^}]+\}",
    }


def _inputs() -> Json:
    name = {"type": "string", "examples": ["orders", "router.eu"]}
    return {
        "description": "The steps it reads, or one output of a step: step.output.",
        "anyOf": [name, {"type": "array", "items": name, "minItems": 1}],
    }


def _rate() -> Json:
    rows = {"type": "string", "pattern": RATE_PATTERN, "examples": ["1000/s"]}
    size = {"type": "string", "pattern": BYTE_RATE_PATTERN, "examples": ["10MiB/s"]}
    return {
        "description": "The highest rate of rows, of bytes, or of both.",
        "anyOf": [rows, size, {"$ref": "#/$defs/RateLimit"}, _VARIABLE],
    }


def _parameter() -> Json:
    return {
        "type": ["object", "null"],
        "properties": {
            "type": {"type": "string", "default": "string", "examples": ["int64", "timestamp"]},
            "default": {"description": "Without it the parameter must be given."},
            "description": {"type": "string"},
        },
        "additionalProperties": False,
    }


def _test() -> Json:
    rows = {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "object"}},
    }
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "params": {"type": "object"},
            "given": {"description": "Rows by source, step or step.output."} | rows,
            "expect": {"description": "Rows by step."} | rows,
            "ordered": {"type": "boolean", "description": "Rows must come in this order."},
        },
        "required": ["given", "expect"],
        "additionalProperties": False,
    }


def _step(
    kind: str, description: str, types: Mapping[str, type[BaseModel]], defs: Json, more: Json
) -> Json:
    """One step: its keys, and for each type its config."""
    choices = []
    for name, model in sorted(types.items()):
        defs[f"{kind}.{name}"] = _config(model, f"{kind}.{name}", defs)
        if kind == "destination" and not model.model_fields.keys().isdisjoint(PLACES):
            defs[f"{kind}.{name}"]["properties"]["per_table"] = _PER_TABLE
        required = ["config"] if defs[f"{kind}.{name}"].get("required") else []
        choices.append(
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {
                    "properties": {"config": {"$ref": f"#/$defs/{kind}.{name}"}},
                    "required": required,
                },
            }
        )
    properties = {
        "type": {
            "description": f"The {kind}'s type.",
            "anyOf": [{"enum": sorted(types)}, {"type": "string"}],
        },
        "description": {"type": "string"},
        "was": {
            "type": "string",
            "description": "The step's former name, for run --from: it gets the state of that step.",
        },
        "config": {"type": ["object", "null"], "description": "The options of this type."},
        **more,
        "error_handling": {"$ref": "#/$defs/ErrorHandling"},
    }
    return {
        "title": kind.capitalize(),
        "description": description,
        "type": "object",
        "properties": properties,
        "required": ["type", "inputs"] if "inputs" in more else ["type"],
        "additionalProperties": False,
        "allOf": choices,
    }


def _config(model: type[BaseModel], name: str, defs: Json) -> Json:
    schema = _model(model, name, defs)
    schema.setdefault("properties", {}).setdefault("retry_policy", {"$ref": "#/$defs/RetryPolicy"})
    return schema


def _model(model: type[BaseModel], name: str, defs: Json) -> Json:
    """A model's schema. Its nested models are added to `defs` under unique names."""
    model_schema = copy.deepcopy(
        model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}", mode="validation")
    )
    for inner, schema in model_schema.pop("$defs", {}).items():
        defs[f"{name}.{inner}"] = _strict(_everywhere(schema, _or_variable))
    return _strict(_everywhere(model_schema, _or_variable))


def _strict(schema: Json) -> Json:
    """Refuse unknown keys, as `bind` does, unless the model allows them."""
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def _everywhere(schema: Any, change: Callable[[Json], Json]) -> Any:
    """The schema with `change` applied to every inner schema and then to itself."""
    if isinstance(schema, list):
        return [_everywhere(item, change) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed: Json = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            changed[key] = {name: _everywhere(item, change) for name, item in value.items()}
        elif key in ("anyOf", "allOf", "oneOf", "items", "prefixItems", "additionalProperties"):
            changed[key] = _everywhere(value, change)
        else:
            changed[key] = value
    return change(changed)


def _or_variable(schema: Json) -> Json:
    """Allow a variable instead of a number, a boolean or a word of a list."""
    types = schema.get("type", [])
    types = {types} if isinstance(types, str) else set(types)
    takes_text = "string" in types and "pattern" not in schema
    if takes_text or not (types & _OWN_TYPES or schema.keys() & {"enum", "const", "pattern"}):
        return schema
    outside = ("title", "description", "default", "examples")
    outer = {key: schema[key] for key in outside if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outside}
    return {**outer, "anyOf": [inner, _VARIABLE]}
