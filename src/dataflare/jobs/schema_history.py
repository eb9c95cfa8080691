"""The schemas of destinations over time: what columns they were written with, since which run.

Always true: a version is added only where a destination's columns differ from the last one, or where it writes to another
place; at most `VERSIONS_MAX` versions of a destination are kept, the newest ones and the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import orjson
from msgspec import Struct, field

from dataflare.checkpoint import files
from dataflare.checkpoint.runs import utc_text
from dataflare.errors import CheckpointError
from dataflare.planner.facts import place
from dataflare.planner.graph import DestinationNode

if TYPE_CHECKING:
    from dataflare.planner import Plan

FILE = "schemas.json"
VERSIONS_MAX = 200


class SchemaVersion(Struct):
    """run_id: of the first run that wrote with it; at: when that run began to, RFC 3339, UTC. columns: types by name, in
    order. place: where it writes, in words."""

    run_id: str
    at: str
    columns: dict[str, str]
    place: str | None = None


class _Kept(Struct):
    version: int = 1
    destinations: dict[str, list[SchemaVersion]] = field(default_factory=dict)


def schema_history(folder: Path) -> Mapping[str, Sequence[SchemaVersion]]:
    """By destination, its schemas, oldest first. folder: the workflow's. Raises CheckpointError (E0701) if the file cannot
    be read."""
    return _read(folder).destinations


def note_schemas(folder: Path, plan: Plan, run_id: str, at_s: float | None = None) -> None:
    """Add the schemas that a run has written with. Raises OSError, and as `schema_history`. Blocking."""
    kept = _read(folder)
    at = utc_text(time.time() if at_s is None else at_s)
    has_changed = False
    for node in plan.written:
        if not isinstance(node, DestinationNode):
            continue
        columns, where = node.written.to_json(), place(node.connector)
        versions = kept.destinations.setdefault(node.id, [])
        # The order of columns is a part of a file's schema, so it counts.
        last = versions[-1] if versions else None
        if (
            last is not None
            and [*last.columns.items()] == [*columns.items()]
            and last.place == where
        ):
            continue
        versions.append(SchemaVersion(run_id, at, columns, where))
        if len(versions) > VERSIONS_MAX:
            del versions[1]
        has_changed = True
    if has_changed:
        # Names of columns may be texts of the file, which are of a class of their own.
        data = orjson.dumps(msgspec.to_builtins(kept, enc_hook=str), option=orjson.OPT_NON_STR_KEYS)
        files.write_whole(folder / FILE, data, name_durable=False)


def differences(before: SchemaVersion | None, now: SchemaVersion) -> Iterator[str]:
    """What changed from one version to the next, in words."""
    if before is None:
        yield "first seen"
        return
    if before.place != now.place:
        yield f"writes to {now.place or 'another place'}"
    for name, type_ in now.columns.items():
        if name not in before.columns:
            yield f"+ {name} {type_}"
        elif before.columns[name] != type_:
            yield f"{name}: {before.columns[name]} → {type_}"
    yield from (f"- {name}" for name in before.columns if name not in now.columns)
    kept_before = [name for name in before.columns if name in now.columns]
    kept_now = [name for name in now.columns if name in before.columns]
    if kept_before != kept_now:
        yield "another order of columns"


def _read(folder: Path) -> _Kept:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=_Kept)
    except FileNotFoundError:
        return _Kept()
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"the history of schemas cannot be read: {FILE}: {error}",
            code="E0701",
            help=f"restore {folder / FILE} from a backup, or delete it: it is only shown",
        ) from error
