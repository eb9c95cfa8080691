"""What a connector is told about where it runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from dataflare.errors import ConfigError
from dataflare.model.types import Schema
from dataflare.sdk.streams import TableName

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_RECORD_BYTES_MIN = 4 << 20
_WEB = ("http", "https")


def has_scheme(text: str) -> bool:
    """Whether a text names a place as a URL does: `s3://bucket/orders.csv`."""
    return _SCHEME.match(text) is not None


class Policy(Struct, frozen=True):
    """What a workflow may reach. The command line allows all; a server that takes workflows from
    others narrows it.

    folders: None allows every path, else only paths inside these. python: user functions.
    """

    folders: tuple[Path, ...] | None = None
    python: bool = True

    def check_path(self, path: Path, step: str) -> Path:
        """The path, or ConfigError (E0410) when it lies outside the allowed folders."""
        if self.folders is not None:
            real = path.resolve()
            if not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
                raise ConfigError(
                    f"step '{step}' may not reach {path}",
                    code="E0410",
                    step=step,
                    help="use a place that is allowed here",
                )
        return path


class ConnectorContext(Struct, frozen=True):
    """step: the step's name. base: the folder that relative paths start from. private: files that it
    makes are for their owner alone, as those of the state folder are. memory: `resources.memory`, in
    bytes. folder: of the workflow's state; None where nothing is to be kept, as in a preview. shared: what the sources of
    many tables have in common, by name, such as a snapshot; None for a source of its own. table: of a step of many tables,
    the one that it reads or writes."""

    step: str
    base: Path = field(default_factory=Path)
    policy: Policy = field(default_factory=Policy)
    private: bool = False
    memory: int = 1 << 30
    folder: Path | None = None
    shared: dict[str, Any] | None = None
    table: TableName | None = None

    def place(self, text: str) -> str:
        """What a path or a URL names, links in it resolved. Raises ConfigError (E0419) for a NUL in it."""
        _check_nul(text, self.step)
        return text if has_scheme(text) else os.path.realpath(self.base / text)

    @property
    def record_bytes_max(self) -> int:
        """How many bytes one record may have. Reading it takes about six times as much."""
        return max(self.memory // 16, _RECORD_BYTES_MIN)

    @property
    def answer_bytes_max(self) -> int:
        """How many bytes one answer of a system may have that must be read as a whole."""
        return max(self.memory // 4, _RECORD_BYTES_MIN)

    @property
    def buffer_bytes_max(self) -> int:
        """How many bytes of rows a destination may gather before it encodes them."""
        return self.memory // 16

    def path(self, text: str) -> Path:
        """The path a user wrote, made absolute from the workflow's folder, if the policy allows.
        Raises ConfigError: E0410 for a place that is not allowed, E0419 for a URL or a NUL in it."""
        _check_nul(text, self.step)
        if (scheme := _SCHEME.match(text)) is not None:
            raise _no_file(text, scheme[1].lower(), self.step)
        return self.policy.check_path((self.base / Path(text).expanduser()).absolute(), self.step)


def _check_nul(text: str, step: str) -> None:
    if "\0" in text:
        raise ConfigError(
            f"step '{step}' names the path {text!r}, which holds a NUL character",
            code="E0419",
            step=step,
            help="no file system takes it: write the path without it",
        )


def _no_file(text: str, scheme: str, step: str) -> ConfigError:
    help = "name a file or a folder on this machine, or install a plug-in whose type reads it"
    if scheme in _WEB:
        help = "use 'type: http', or name a file on this machine"
    elif scheme == "file":
        help = f"write the path alone: {text.partition('://')[2]}"
    return ConfigError(
        f"step '{step}' names '{text}', but this connector has paths only, not {scheme}:// places",
        code="E0419",
        step=step,
        help=help,
    )


class DestinationContext(Struct, frozen=True):
    """Of one attempt at a run, for one destination step.

    workflow: its name; "" where the destination keeps nothing of the run. run_id: of the run, the same in
    all of its attempts.
    lineage: UUID text, born with a first run or `--fresh`; attempt: grows with each start; token: a
    chance text of this attempt, so that two copies of one state folder are told apart.
    schema: the user's columns that arrive. changelog: batches have row kinds.
    redo: an existing folder for this step's redo files. Those that a committable names come to the committer, and JSON files that
    the committer leaves there come to the writers, also where writers are on other machines.
    subtask of subtasks: which parallel copy. bounded: the run has an end. sift: rows that the system
    refuses are left out and given to `Writer.settle`; else the first of them is raised. complete: by
    the final epoch all rows that there are have arrived; a row that did not is gone. before: then, the
    steps that its rows depend on. epoch: for a writer, the last one cut before; all that it prepares have
    greater numbers. refused_max: a writer that has found more refused rows ends its search (`max_errors.end_search`).
    """

    step: str
    lineage: str
    attempt: int
    schema: Schema
    redo: Path
    changelog: bool = False
    bounded: bool = True
    subtask: int = 0
    subtasks: int = 1
    sift: bool = False
    token: str = ""
    complete: bool = False
    workflow: str = ""
    epoch: int = 0
    before: frozenset[str] = frozenset()
    run_id: str = ""
    refused_max: int | None = None

    @property
    def lineage8(self) -> str:
        return self.lineage.replace("-", "")[:8]
