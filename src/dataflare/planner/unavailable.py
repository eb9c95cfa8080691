"""Refuse settings that the format has and that this version does not support. They are never ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dataflare.errors import PlanError, Spot, raise_all
from dataflare.security.redact import redact
from dataflare.workflow.nodes import SpotMap, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def refuse_unavailable(workflow: Workflow) -> None:
    """Raise PlanError (E0314) for settings that would have no effect."""
    raise_all(list(_unavailable(workflow)))


def _unavailable(workflow: Workflow) -> Iterator[PlanError]:
    settings = workflow.settings
    if settings.state.backend != "memory":
        yield _error(workflow, "state.backend", settings.state.backend, "set it to memory")
    if settings.state.path is not None:
        path = redact(settings.state.path)
        yield _error(
            workflow, "state.path", path, "set the folder of the state with $DATAFLARE_HOME"
        )
    if not settings.checkpoint.incremental:
        yield _error(workflow, "checkpoint.incremental", "false", "set it to true")
    storage = settings.checkpoint.storage
    if storage is not None and (
        "\0" in storage or ("://" in storage and not re.fullmatch(r"s3://[^/@]+(/[^@]*)?", storage))
    ):
        instead = "name a folder or s3://BUCKET/PREFIX; credentials come from the environment"
        yield _error(workflow, "checkpoint.storage", redact(storage), instead)


def _error(workflow: Workflow, setting: str, value: str, instead: str) -> PlanError:
    return PlanError(
        f"settings.{setting}: {value} is not available in this version",
        code="E0314",
        spot=_spot(workflow.node, ["settings", *setting.split(".")]),
        help=f"leave it out, or {instead}",
    )


def _spot(node: Any, path: list[str]) -> Spot | None:
    """The place in the file of the value at a path. None for a workflow that was written in Python."""
    for key in path[:-1]:
        node = node.get(key)
        if not isinstance(node, SpotMap):
            return None
    return spot_of(node, path[-1])
