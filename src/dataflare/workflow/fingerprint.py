"""A hash of the parts of a step that must not change between a stopped run and its resume.

Always true: the same text of a step gives the same hash on every machine and in every version;
passwords and values of secrets are not part of it, so they may be rotated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dataflare.model.text import SourceText
from dataflare.security.redact import is_secret_name, redact_connections
from dataflare.workflow.shown import shown

if TYPE_CHECKING:
    from dataflare.workflow.model import AnyStep

_VERSION = 1
_MAY_CHANGE = frozenset(
    {"description", "retry_count", "retry_policy", "backoff", "rate", "rate_limit"}
)


def fingerprint(step: AnyStep, run_column: str | None = None) -> str:
    """32 hexadecimal digits. run_column: of the settings; of a destination it is a part."""
    handling = step.error_handling
    facts: dict[str, Any] = {
        "version": _VERSION,
        "kind": step.kind,
        "type": step.type,
        "inputs": [str(ref) for ref in step.inputs],
        "config": _config(step.config),
        "on_error": handling.on_error,
        "dead_letter": handling.dead_letter and _plain(handling.dead_letter.model_dump(), ""),
    }
    schema, event_time = getattr(step, "schema", None), getattr(step, "event_time", None)
    if schema is not None:
        facts["schema"] = schema.to_json()
    if event_time is not None:
        facts["event_time"] = event_time.model_dump(mode="json")
    if run_column is not None and step.kind == "destination":
        facts["run_column"] = run_column
    text = json.dumps(facts, ensure_ascii=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sorted keys of a config. Inner mappings keep their order, because it may have a meaning."""
    return {key: _plain(config[key], key) for key in sorted(config) if key not in _MAY_CHANGE}


def _plain(value: Any, key: str) -> Any:
    match value:
        case SourceText() if any(variable.secret for variable in value.variables):
            return {"text": _without_secrets(value)}
        case str():
            return "***" if is_secret_name(key) else redact_connections(str(value))
        case Mapping():
            return {str(name): _plain(item, str(name)) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item, key) for item in value]
    return shown(value, key=key)


def _without_secrets(text: SourceText) -> str:
    """The text with its secrets by name and its other variables by value."""
    text_now = text.template
    for variable in text.variables:
        replacement = variable.shown if variable.secret else str(variable.value)
        text_now = text_now.replace(variable.placeholder, replacement, 1)
    return redact_connections(text_now)
