"""Keep what checkpoints say of a source, from epoch to epoch.

Always true:
- a part is in the manifest while it is short (`INLINE_BYTES`), and else in a chunk, which is written once:
  later checkpoints refer to it;
- a split that is done is told once: it goes from the manifest into a chunk with others, and small chunks
  are merged, so their number follows the logarithm of the splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.checkpoint.files import check_step
from dataflare.checkpoint.snapshots import (
    SourceSnapshot,
    SplitState,
    StateChunk,
    StoredParts,
    checksum_of,
    ranges_of,
)
from dataflare.errors import CheckpointError, InternalError
from dataflare.model.progress import Position, Split
from dataflare.sdk.crashpoints import crash_point

if TYPE_CHECKING:
    import polars as pl

    from dataflare.checkpoint.store import Storage

INLINE_BYTES = 8 << 10
"""A part of at most so many bytes of JSON is in the manifest."""
_MERGED = 8
"""So many neighbouring chunks of about the same size become one."""


class SourceRecord:
    """The splits of one source. Used by one thread at a time.

    splits: the listing. carried: the value that the run started from.
    """

    def __init__(self, snapshot: SourceSnapshot, stored: StoredParts | None = None) -> None:
        """snapshot: with all parts, except the states of the splits that `stored.done` has."""
        self.splits, self.carried = snapshot.splits, snapshot.carried
        self.open = {id_: state for id_, state in snapshot.states.items() if not state.done}
        self.done = {state.split.id for state in snapshot.states.values() if state.done}
        self._tail = {id_: state for id_, state in snapshot.states.items() if state.done}
        self._places = {split.id: place for place, split in enumerate(self.splits)}
        self._tail_bytes = sum(map(self._done_bytes, self._tail.values()))
        self._parts = replace(stored or StoredParts(), tail=())
        self._long_listing = _is_long(split.to_json() for split in self.splits)
        self._long_carried = self.carried is not None and _is_long([self.carried])
        if (self._long_listing or self._long_carried) and not self._parts.listed[0]:
            self._change(listed=checksum_of(self.splits))

    @classmethod
    def read(cls, storage: Storage, snapshot: SourceSnapshot) -> SourceRecord:
        """The record that a manifest holds, with its chunks read. Blocking. Raises CheckpointError
        (E0701) if one is missing or changed."""
        parts = snapshot.stored
        if parts is None:
            return cls(snapshot)
        splits, carried = snapshot.splits, snapshot.carried
        if parts.listing is not None:
            values = _read(storage, parts.listing)
            splits = tuple(Split.from_json(value) for value in values)
        if parts.carried is not None:
            (carried,) = _read(storage, parts.carried)
        record = cls(SourceSnapshot(splits, snapshot.states, carried), parts)
        record.done |= {value["id"] for chunk in parts.done for value in _read(storage, chunk)}
        listed = {split.id: split for split in splits}
        record.update(SplitState.from_json(each, listed.get(each["id"])) for each in parts.tail)
        return record

    def update(self, states: Iterable[SplitState]) -> None:
        """What readers have come to since. The same state may come again."""
        for state in states:
            id_ = state.split.id
            if id_ in self.done:
                continue
            if not state.done:
                self.open[id_] = state
                continue
            self.open.pop(id_, None)
            self.done.add(id_)
            self._tail[id_] = state
            self._tail_bytes += self._done_bytes(state)

    @property
    def unread(self) -> int:
        """How many splits are not read to their end."""
        return len(({split.id for split in self.splits} | self.open.keys()) - self.done)

    @property
    def must_write(self) -> bool:
        """Whether `write` has something to write before the next `snapshot`."""
        parts = self._parts
        return (
            (self._long_listing and parts.listing is None)
            or (self._long_carried and parts.carried is None)
            or self._tail_bytes > INLINE_BYTES
        )

    def write(self, storage: Storage, step: str, attempt: int, epoch: int) -> None:
        """Write the long parts that are not in chunks yet. Blocking."""
        prefix = f"a{attempt}-{epoch:010d}"
        if self._long_listing and self._parts.listing is None:
            values = [split.to_json() for split in self.splits]
            listing = _write(storage, f"{check_step(step)}-listing-{prefix}.arrow", values)
            self._change(listing=listing)
            crash_point("source.after_listing")
        if self._long_carried and self._parts.carried is None:
            carried = _write(storage, f"{check_step(step)}-carried-{prefix}.arrow", [self.carried])
            self._change(carried=carried)
        if self._tail_bytes > INLINE_BYTES:
            self._write_done(storage, f"{check_step(step)}-done-{prefix}")
            crash_point("source.after_done")

    def snapshot(self) -> SourceSnapshot:
        """What the next manifest says. `write` has been called if it must be."""
        parts, tail = self._parts, self._tail
        splits, carried = self.splits, self.carried
        if parts.listing is not None:
            # A state would have to repeat its split, which is in the listing.
            values = tuple(self._done_value(state) for state in tail.values())
            parts, tail, splits = replace(parts, tail=values), {}, ()
        if parts.carried is not None:
            carried = None
        return SourceSnapshot(
            splits, {**self.open, **tail}, carried, parts if parts.chunks else None
        )

    def whole(self, storage: Storage) -> SourceSnapshot:
        """Everything, with the states that are in chunks. Blocking."""
        listed = {split.id: split for split in self.splits}
        states = {
            value["id"]: SplitState.from_json(value, listed.get(value["id"]))
            for chunk in self._parts.done
            for value in _read(storage, chunk)
        }
        return SourceSnapshot(self.splits, {**states, **self.open, **self._tail}, self.carried)

    def positions(self, storage: Storage) -> dict[str, Position]:
        """The position of each split that was opened. Blocking."""
        states = self.whole(storage).states
        return {id_: s.position for id_, s in states.items() if s.position is not None}

    def _write_done(self, storage: Storage, prefix: str) -> None:
        values = [self._done_value(state) for state in self._tail.values()]
        chunks = [*self._parts.done, _write(storage, f"{prefix}-0.arrow", values)]
        number = 0
        while len(chunks) >= _MERGED and chunks[-_MERGED].rows < _MERGED * chunks[-1].rows:
            number += 1
            merged = [value for chunk in chunks[-_MERGED:] for value in _read(storage, chunk)]
            chunks[-_MERGED:] = [_write(storage, f"{prefix}-{number}.arrow", merged)]
        places = {self._places[id_] for id_ in self._tail if id_ in self._places}
        ranges = ranges_of([*self._parts.done_listed, *((place, place) for place in places)])
        listed = self._parts.listed if self._parts.listed[0] else checksum_of(self.splits)
        self._change(done=tuple(chunks), done_listed=ranges, listed=listed)
        self._tail, self._tail_bytes = {}, 0

    def _done_value(self, state: SplitState) -> dict[str, Any]:
        id_ = state.split.id
        return {"id": id_, **state.to_json(with_split=id_ not in self._places)}

    def _done_bytes(self, state: SplitState) -> int:
        # With its split where that was found later: it is in no listing, so the manifest has it as well.
        return len(_text(self._done_value(state))) + 1

    def _change(self, **changes: Any) -> None:
        self._parts = replace(self._parts, **changes)


def read_source(storage: Storage, snapshot: SourceSnapshot) -> SourceSnapshot:
    """A source of a manifest with all its parts. Blocking."""
    if snapshot.stored is None:
        return snapshot
    return SourceRecord.read(storage, snapshot).whole(storage)


def _is_long(values: Iterable[Any]) -> bool:
    total = 0
    for value in values:
        total += len(_text(value)) + 1
        if total > INLINE_BYTES:
            return True
    return False


def _text(value: Any) -> str:
    """ASCII, so that a name with bytes that are not UTF-8 comes back as it was."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InternalError(f"a checkpoint holds something that is not JSON: {error}") from error


def _write(storage: Storage, name: str, values: Sequence[Any]) -> StateChunk:
    import polars as pl

    frame: pl.DataFrame = pl.DataFrame({"json": [_text(value) for value in values]})
    return storage.write_chunk(name, frame)


def _read(storage: Storage, chunk: StateChunk) -> list[Any]:
    try:
        return [json.loads(text) for text in storage.read_chunk(chunk)["json"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"chunk {chunk.name} cannot be read: {error}",
            code="E0701",
            help="restore the file from a backup, or start over with --fresh",
        ) from error
