"""Refuse settings that the format has and that this version does not support. They are never ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dataflare.errors import PlanError, Spot, raise_all
from dataflare.sdk.registry import missing_library
from dataflare.security.redact import redact
from dataflare.workflow.nodes import SpotMap, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def refuse_unavailable(workflow: Workflow) -> None:
    """Raise PlanError (E0314) for settings that would have no effect, and ConfigError (E0402) for a backend whose
    library is not installed."""
    raise_all(list(_unavailable(workflow)))
    if workflow.settings.state.backend == "rocksdb" and find_spec("rocksdict") is None:
        error = missing_library("state.backend: rocksdb", ModuleNotFoundError(name="rocksdict"))
        raise error.at(spot=_spot(workflow.node, ["settings", "state", "backend"]))


def _unavailable(workflow: Workflow) -> Iterator[PlanError]:
    settings = workflow.settings
    if not settings.checkpoint.incremental:
        yield _error(workflow, "checkpoint.incremental", "false", "set it to true")
    storage = settings.checkpoint.storage
    if storage is not None and (
        "\0" in storage
        or ("://" in storage and not re.fullmatch(r"(s3|az|gs)://[^/@]+(/[^@]*)?", storage))
    ):
        instead = "name a folder, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; credentials come from the environment"
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
