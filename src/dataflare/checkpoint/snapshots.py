"""What a manifest says of the shares of a checkpoint: splits and their positions, chunks of state.

The size of a source in a manifest follows its open splits, and not the splits that it ever read. Long parts
are chunks in the checkpoint storage (`StoredParts`): the listing of the run's start, the positions of the
splits that are done, and the value that the run was carried from. Short ones are in the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xxhash
from msgspec import Struct, field

from dataflare.errors import InternalError
from dataflare.model.progress import Position, Split

_CHUNK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=%~-]*", re.ASCII)


class SplitState(Struct, frozen=True):
    """The progress of reading one split. position: None means its beginning. event_time_us: the greatest
    event time before the position, where rows have one."""

    split: Split
    position: Position | None = None
    done: bool = False
    event_time_us: int | None = None

    def to_json(self, *, with_split: bool) -> dict[str, Any]:
        value: dict[str, Any] = {
            "position": self.position.to_json() if self.position is not None else None,
            "done": self.done,
        }
        if with_split:
            value["split"] = self.split.to_json()
        if self.event_time_us is not None:
            value["event_time_us"] = self.event_time_us
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], split: Split | None) -> SplitState:
        """split: the listed one; used where the state does not have its own."""
        if "split" in value:
            split = Split.from_json(value["split"])
        if split is None:
            raise ValueError("a state belongs to no split")
        position = value["position"]
        return cls(
            split,
            None if position is None else Position(position),
            bool(value["done"]),
            value.get("event_time_us"),
        )


class StoredParts(Struct, frozen=True):
    """The parts of a source that are chunks. A chunk that is None, and an empty `done`: the part is in the
    manifest.

    listing: the splits. listed: how many they are, and their checksum (`checksum_of`). done: states of
    splits that are done, in the order in which they were done; a later chunk has none of an earlier one.
    done_listed: the same splits as ranges of places in the listing, both ends included. tail: states of splits
    that were done later, as in the chunks; if the listing is in the manifest, so are they. carried: the value
    that the run started from.
    """

    listing: StateChunk | None = None
    listed: tuple[int, str] = (0, "")
    done: tuple[StateChunk, ...] = ()
    done_listed: tuple[tuple[int, int], ...] = ()
    tail: tuple[Mapping[str, Any], ...] = ()
    carried: StateChunk | None = None

    @property
    def chunks(self) -> list[StateChunk]:
        return [chunk for chunk in (self.listing, *self.done, self.carried) if chunk is not None]

    def to_json(self) -> dict[str, Any]:
        return {
            "listing": self.listing.to_json() if self.listing is not None else None,
            "listed": list(self.listed),
            "done": [chunk.to_json() for chunk in self.done],
            "done_listed": [list(each) for each in self.done_listed],
            "tail": list(self.tail),
            "carried": self.carried.to_json() if self.carried is not None else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StoredParts:
        listing, carried = value["listing"], value["carried"]
        count, checksum = value["listed"]
        return cls(
            StateChunk.from_json(listing) if listing is not None else None,
            (count, checksum),
            tuple(StateChunk.from_json(each) for each in value["done"]),
            tuple((first, last) for first, last in value["done_listed"]),
            tuple(value["tail"]),
            StateChunk.from_json(carried) if carried is not None else None,
        )


class SourceSnapshot(Struct, frozen=True):
    """A source's queue of splits.

    splits: as listed at the start of the run, in order. states: by split id, of the splits that were
    opened or were discovered later. A listed split without a state is unread; a split that was discovered
    later has only a state. carried: the value that the run started from (see `SourceConnector.splits`). stored: what of
    these is in chunks, and not here.
    """

    splits: tuple[Split, ...] = ()
    states: Mapping[str, SplitState] = field(default_factory=dict)
    carried: Any = None
    stored: StoredParts | None = None

    def all_states(self) -> list[SplitState]:
        """Every split with its state, in listing order. Splits that were discovered later come last. Not
        for a snapshot of which parts are in chunks: `source_records.read_source` reads them."""
        if self.stored is not None:
            raise InternalError("a source was used whose parts are still in chunks")
        listed = [self.states.get(split.id, SplitState(split)) for split in self.splits]
        listed_ids = {split.id for split in self.splits}
        return listed + [state for id_, state in self.states.items() if id_ not in listed_ids]

    def counts(self) -> tuple[int, int]:
        """How many splits are done, and how many there are. Needs no chunk."""
        stored = self.stored or StoredParts()
        listed_ids = {split.id for split in self.splits}
        listed = len(self.splits) if stored.listing is None else stored.listed[0]
        done = sum(state.done for state in self.states.values())
        done += sum(chunk.rows for chunk in stored.done) + len(stored.tail)
        later = 0 if stored.listing else sum(id_ not in listed_ids for id_ in self.states)
        # In a stored listing it is not seen which open splits it has.
        return done, max(listed + later, done + sum(not s.done for s in self.states.values()))

    def to_json(self) -> dict[str, Any]:
        listed = {split.id: split for split in self.splits}
        value = {
            "splits": [split.to_json() for split in self.splits],
            "states": {
                id_: state.to_json(with_split=listed.get(id_) != state.split)
                for id_, state in self.states.items()
            },
            "carried": self.carried,
        }
        return value if self.stored is None else {**value, "stored": self.stored.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SourceSnapshot:
        splits = tuple(Split.from_json(each) for each in value["splits"])
        listed = {split.id: split for split in splits}
        states = {
            id_: SplitState.from_json(state, listed.get(id_))
            for id_, state in value["states"].items()
        }
        stored = StoredParts.from_json(value["stored"]) if "stored" in value else None
        return cls(splits, states, value["carried"], stored)


def checksum_of(splits: Sequence[Split]) -> tuple[int, str]:
    """How many splits there are, and a checksum of all that is listed of them, in order."""
    digest = xxhash.xxh3_64()
    for split in splits:
        digest.update(json.dumps(split.to_json(), sort_keys=True).encode("ascii") + b"\n")
    return len(splits), digest.hexdigest()


def ranges_of(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges of places in order, with neighbours joined. Both ends are included."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


class StateChunk(Struct, frozen=True):
    """One immutable file of operator state. name: in the store's chunk folder; checksum: xxh3_64
    of its bytes, in hex; key_groups: the first and last key group in it, both included."""

    name: str
    rows: int
    num_bytes: int
    checksum: str
    key_groups: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if _CHUNK_NAME.fullmatch(self.name) is None:
            raise ValueError(f"'{self.name}' is not a chunk name")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rows": self.rows,
            "num_bytes": self.num_bytes,
            "checksum": self.checksum,
            "key_groups": list(self.key_groups) if self.key_groups is not None else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StateChunk:
        groups = value["key_groups"]
        return cls(
            value["name"],
            value["rows"],
            value["num_bytes"],
            value["checksum"],
            (groups[0], groups[1]) if groups is not None else None,
        )


class OperatorSnapshot(Struct, frozen=True):
    """One subtask's share of a step's state. facts: small JSON such as timers, watermarks and counts."""

    subtask: int
    chunks: tuple[StateChunk, ...] = ()
    facts: Any = None

    def to_json(self) -> dict[str, Any]:
        return {
            "subtask": self.subtask,
            "chunks": [chunk.to_json() for chunk in self.chunks],
            "facts": self.facts,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OperatorSnapshot:
        chunks = tuple(StateChunk.from_json(each) for each in value["chunks"])
        return cls(value["subtask"], chunks, value["facts"])
