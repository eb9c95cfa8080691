"""The table of a `lookup`: a source of the file, or one that the step describes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dataflare.errors import ConfigError, PlanError, did_you_mean
from dataflare.operators.names import spot_of
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.model import TransformationStep
from dataflare.workflow.nodes import SpotMap


def unknown_table(name: str, step: TransformationStep, sources: Iterable[str]) -> PlanError:
    """The error for a name that is not a source (E0108)."""
    names = list(sources)
    return PlanError(
        f"step '{step.name}' looks up in '{name}', which is not a source of this file",
        code="E0108",
        step=step.name,
        spot=spot_of(name),
        notes=[f"sources: {', '.join(names)}"],
        help=did_you_mean(name, names),
    )


def own_table(source: Any, step: TransformationStep) -> tuple[str, Mapping[str, Any]]:
    """Type and config of a table that the step describes. Raises ConfigError (E0409)."""
    if not isinstance(source, dict) or "type" not in source:
        raise ConfigError(
            f"step '{step.name}': `source` is the name of a source, or {{type: ..., ...}}",
            code="E0409",
            step=step.name,
            spot=step.spot_of("config", "source"),
            help="write the name of a source, or its type and config",
        )
    places = source if isinstance(source, SpotMap) else SpotMap(source)
    return str(source["type"]), places.without("type")


def check_bounded(connector: SourceConnector, step: TransformationStep, table_name: str) -> None:
    """Raise PlanError (E0317) for a table that has no end."""
    if not connector.capabilities().bounded:
        raise PlanError(
            f"step '{step.name}' looks up in '{table_name}', which has no end",
            code="E0317",
            step=step.name,
            spot=step.spot_of("config", "source"),
            help="look up in a source that ends: a file, a table or a query",
        )
