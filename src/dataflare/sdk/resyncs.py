"""Requests to read a table of a source of changes again, as files in the workflow's folder.

    <home>/<workflow>/resync/<source>.<id>.json    please read it again: when it was asked for; removed when it is done
    <home>/<workflow>/resync/<source>.<id>.range   the same of some rows: the condition in the source's language
    <home>/<workflow>/resync/<source>.<id>.keys    and the keys of the rows that the destinations have of them, in Parquet
    <home>/<workflow>/resync/<source>.state        how far the run is with which id

A source that takes them keeps the id of the last one that it has begun in its position, so each is done once, whatever
the run dies of. <source> is the step, and of many tables the step and the stream (`shop.orders`). The code blocks.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl
from msgspec import Struct

from dataflare.sdk.durable_files import sync_folder

State = Literal["asked", "reading", "done"]
_FOLDER, _ASKED, _STATE, _RANGE, _KEYS = "resync", ".json", ".state", ".range", ".keys"


class Resync(Struct, frozen=True):
    """source: as in the file's name. at: seconds since 1970 when it was asked for."""

    source: str
    id: str
    at: float
    state: State


class Range(Struct, frozen=True):
    """Rows of a table that are to be read again. condition: in the source's language. keys: a file with those that
    destinations have."""

    source: str
    id: str
    at: float
    condition: str
    keys: Path


def ask_for_range(folder: Path, source: str, condition: str, keys: pl.DataFrame) -> str:
    """As `ask`, for the rows of which a condition is true and those with these keys."""
    id_, place = uuid.uuid4().hex, folder / _FOLDER
    place.mkdir(parents=True, exist_ok=True)
    keys.write_parquet(place / f"{source}.{id_}{_KEYS}")
    _write(place / f"{source}.{id_}{_RANGE}", {"at": time.time(), "condition": condition})
    return id_


def ranges(folder: Path | None) -> list[Range]:
    """Those that are not done, in the order in which they were asked for."""
    found = []
    for file in (folder / _FOLDER).glob(f"*{_RANGE}") if folder is not None else ():
        source, _, id_ = file.name.removesuffix(_RANGE).rpartition(".")
        try:
            told = json.loads(file.read_text())
        except FileNotFoundError:
            continue  # it was done meanwhile
        found.append(Range(source, id_, told["at"], told["condition"], file.with_suffix(_KEYS)))
    return sorted(found, key=lambda each: each.at)


def range_done(folder: Path, id_: str) -> None:
    """All its rows are in every destination."""
    for each in ranges(folder):
        if each.id == id_:
            told = {"id": id_, "state": "done", "at": each.at}
            _write(folder / _FOLDER / f"{each.source}{_STATE}", told)
            each.keys.with_suffix(_RANGE).unlink(missing_ok=True)
            each.keys.unlink(missing_ok=True)


def ask(folder: Path, source: str) -> str:
    """Ask for a source, and return the request's id. folder: the workflow's."""
    id_ = uuid.uuid4().hex
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    _write(folder / _FOLDER / f"{source}.{id_}{_ASKED}", {"at": time.time()})
    return id_


def asked(folder: Path | None) -> dict[str, str]:
    """By source, the id of the last request that is not done."""
    return {source: id_ for source, (_, id_) in _requests(folder).items()}


def tell(folder: Path, states: Mapping[str, tuple[str, State]]) -> None:
    """Keep how far requests are. states: by source, the id and its state."""
    requests = _requests(folder)
    for source, (id_, state) in states.items():
        at, last = requests.get(source, (0.0, ""))
        if last != id_:
            continue  # another one was asked for since
        file, told = folder / _FOLDER / f"{source}{_STATE}", {"id": id_, "state": state, "at": at}
        if not file.exists() or json.loads(file.read_text()) != told:
            _write(file, told)
        if state == "done":
            for name, each_at, each_id in _files(folder):
                if name == source and each_at <= at:
                    (folder / _FOLDER / f"{name}.{each_id}{_ASKED}").unlink(missing_ok=True)


def resyncs(folder: Path) -> list[Resync]:
    """The last request of each source, and how far it is."""
    found = {each.source: Resync(each.source, each.id, each.at, "asked") for each in ranges(folder)}
    found |= {s: Resync(s, id_, at, "asked") for s, (at, id_) in _requests(folder).items()}
    for file in (folder / _FOLDER).glob(f"*{_STATE}"):
        source, told = file.name.removesuffix(_STATE), json.loads(file.read_text())
        if source not in found or found[source].id == told["id"]:
            found[source] = Resync(source, **told)
    return [found[source] for source in sorted(found)]


def _requests(folder: Path | None) -> dict[str, tuple[float, str]]:
    """By source, when the last request was made that is not done, and its id."""
    found: dict[str, tuple[float, str]] = {}
    for source, at, id_ in _files(folder):
        found[source] = max(found.get(source, (at, id_)), (at, id_))
    return found


def _files(folder: Path | None) -> list[tuple[str, float, str]]:
    """Of each request that is not done its source, when it was made, and its id."""
    found = []
    for file in (folder / _FOLDER).glob(f"*{_ASKED}") if folder is not None else ():
        source, _, id_ = file.name.removesuffix(_ASKED).rpartition(".")
        try:
            found.append((source, float(json.loads(file.read_text())["at"]), id_))
        except FileNotFoundError:
            continue  # it was done meanwhile
    return found


def _write(file: Path, content: Mapping[str, object]) -> None:
    """Whole or not at all, also where the machine stops."""
    new = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    with open(new, "w") as out:
        json.dump(content, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, file)
    sync_folder(file.parent)
