"""Where a run of chaos writes: throwaway copies of the destinations, and proxies in front of systems. Pure, except that
links in paths are followed.

Always true: each destination either writes to a path inside the throwaway folder or keeps nothing; a workflow with any
other destination is refused, and so is one whose rows have no end, or are gone from their system once they are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from dataflare.errors import WorkflowError
from dataflare.planner.graph import Graph, SourceNode
from dataflare.sdk.source import Replay
from dataflare.workflow.model import AnyStep, DestinationStep, Workflow

REFUSED = "E0130"
_KEEPS_NOTHING = ("stdout", "blackhole", "memory")
"""Types of destinations that write to no system. The standard output of a run of chaos goes nowhere."""
_SERVER = re.compile(
    r"(?P<before>(?P<scheme>[a-z][a-z0-9+]*)://(?:[^@/\s]*@)?)(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{2,5})"
)
_CHECKS_ITS_NAME = ("https", "rediss", "amqps", "mqtts", "kafka", "s3", "wss", "tls")
"""Schemes of systems that are not reached through a proxy: their certificate names a host, or they name their addresses
themselves."""


class Server(Struct, frozen=True):
    """A system that an option of a step names. path: of the option, for `--set`. text: its value."""

    path: str
    text: str
    host: str
    port: int

    def through(self, port: int) -> str:
        """The value with the address of a proxy."""
        return _SERVER.sub(lambda found: f"{found['before']}127.0.0.1:{port}", self.text, count=1)


def redirected(workflow: Workflow, folder: Path) -> list[str]:
    """Values for `--set` with which the workflow writes into a folder. Raises WorkflowError (E0130) for a destination that
    cannot be redirected."""
    sets = {
        f"destinations.{step.name}.config.path": str(_inside(step, workflow, folder))
        for step in workflow.destinations.values()
        if step.type not in _KEEPS_NOTHING
    }
    for name, dead_letter in _dead_letters(workflow):
        if dead_letter.path is None:
            raise _refused(
                f"the dead letters of {name} go to a destination of type {dead_letter.type}",
                workflow,
                "give them a path for these runs: --set settings.error_handling.dead_letter='{path: dead}'",
            )
        sets[f"{name}.error_handling.dead_letter.path"] = str(
            _moved(dead_letter.path, workflow, folder)
        )
    settings = workflow.settings
    if settings.checkpoint.storage is not None:
        sets["settings.checkpoint.storage"] = str(folder / "checkpoints")
    if settings.state.path is not None:
        sets["settings.state.path"] = str(folder / "state")
    return [f"{path}={json.dumps(value)}" for path, value in sets.items()]


def refuse(workflow: Workflow, graph: Graph) -> None:
    """Raise WorkflowError (E0130) for a workflow whose runs cannot be compared."""
    written = {
        os.path.realpath(workflow.base / str(step.config["path"])): step.name
        for step in workflow.destinations.values()
        if "path" in step.config
    }
    for node in graph:
        if not isinstance(node, SourceNode):
            continue
        step = workflow.sources.get(node.step)
        capabilities = node.connector.capabilities()
        if not capabilities.bounded:
            raise _refused(
                f"the rows of the source '{node.step}' have no end, so two runs cannot be compared",
                workflow,
                f"give it an end for these runs, such as --set sources.{node.step}.config.rows=10000, or "
                "--set settings.mode=batch",
                step,
            )
        if capabilities.replay is Replay.REDELIVERED:
            raise _refused(
                f"the source '{node.step}' takes its rows out of their system, which a run of chaos must not do",
                workflow,
                "read a copy of the rows instead",
                step,
            )
        path = str(step.config.get("path", "")) if step is not None else ""
        reads = os.path.realpath(workflow.base / path) if path else None
        if reads in written:
            raise _refused(
                f"the source '{node.step}' reads what the destination '{written[reads]}' writes",
                workflow,
                "read another file, or split the workflow",
                step,
            )


def servers(workflow: Workflow) -> list[Server]:
    """The systems that steps name by a URL with a port, and that can be reached through a proxy."""
    kinds: tuple[tuple[str, Mapping[str, AnyStep]], ...] = (
        ("sources", workflow.sources),
        ("transformations", workflow.transformations),
        ("destinations", workflow.destinations),
    )
    return [
        Server(f"{kind}.{name}.config.{path}", text, found["host"], int(found["port"]))
        for kind, steps in kinds
        for name, step in steps.items()
        for path, text in _texts(step.config)
        if (found := _SERVER.search(text)) is not None and found["scheme"] not in _CHECKS_ITS_NAME
    ]


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a config with their paths."""
    if isinstance(value, str):
        yield path, str(value)
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        yield from _texts(each, f"{path}.{key}" if path else str(key))


def _inside(step: DestinationStep, workflow: Workflow, folder: Path) -> str:
    path = step.config.get("path")
    if path is None or "://" in str(path):
        raise _refused(
            f"the destination '{step.name}' of type {step.type} cannot be redirected to a throwaway copy",
            workflow,
            "write to a file, SQLite or DuckDB in these runs, with --overlay or --set; "
            "files, SQLite, DuckDB and local tables of Delta Lake can be redirected",
            step,
        )
    return _moved(path, workflow, folder)


def _moved(path: str, workflow: Workflow, folder: Path) -> str:
    """The same path below a folder. What follows its last slash stays, as it says whether it is a folder."""
    full = os.path.abspath(workflow.base / Path(path).expanduser())
    end = "/" if str(path).endswith("/") else ""
    return f"{folder}/written{full}{end}"


def _dead_letters(workflow: Workflow) -> Iterator[tuple[str, Any]]:
    """By place in the workflow file, the dead letters that have a place of their own there."""
    whole = workflow.settings.error_handling.dead_letter
    if whole is not None:
        yield "settings", whole
    for kind, steps in (
        ("sources", workflow.sources),
        ("transformations", workflow.transformations),
        ("destinations", workflow.destinations),
    ):
        for name, step in steps.items():
            own = step.error_handling.dead_letter
            if own is not None and own != whole:
                yield f"{kind}.{name}", own


def _refused(
    message: str, workflow: Workflow, help: str, step: AnyStep | None = None
) -> WorkflowError:
    return WorkflowError(
        message,
        code=REFUSED,
        step=None if step is None else step.name,
        spot=workflow.spot if step is None else step.spot,
        help=help,
    )
