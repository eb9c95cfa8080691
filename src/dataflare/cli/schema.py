"""`dataflare schema`: the JSON Schema of the workflow file, for editors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dataflare.cli import answers
from dataflare.errors import ConfigError


def schema() -> int:
    """Print the JSON Schema of the workflow file, for editors that complete and check YAML."""
    from dataflare.operators import registry as steps
    from dataflare.sdk import registry as connectors
    from dataflare.workflow.jsonschema import json_schema

    answers.print_json(
        json_schema(
            _configs(connectors.source_types(), connectors.source),
            _configs(steps.step_types(), steps.step),
            _configs(connectors.destination_types(), connectors.destination),
        )
    )
    return 0


def _configs(types: Iterable[str], find: Callable[[str], type[Any]]) -> dict[str, Any]:
    """Config models by type, without the types whose library is not installed."""
    configs = {}
    for type_ in types:
        try:
            configs[type_] = find(type_).Config
        except ConfigError:
            continue
    return configs
