"""A manifest: the content of one checkpoint, as a text with a checksum.

The text is one line of JSON: a fixed frame around a body with sorted keys:

    {"format":"dataflare checkpoint","version":1,"checksum":"<xxh3_64 of the body>","body":{...}}

Always true:
- the frame is compared letter by letter and the body by checksum, so each truncation and each changed
  bit is detected; no part of a damaged text is used;
- it is pure ASCII, so every database and file system returns it unchanged;
- it has names relative to the store, no paths of a machine, and no pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import xxhash
from msgspec import Struct, field

from dataflare.errors import CheckpointError, InternalError
from dataflare.model.hashing import HASH_ID
from dataflare.model.progress import Position, Split
from dataflare.sdk.destination import Committable

VERSION = 1
_FRAME = re.compile(
    r'\{"format":"dataflare checkpoint","version":(?P<version>[0-9]+),'
    r'"checksum":"(?P<checksum>[0-9a-f]{16})","body":(?P<body>\{.*\})\}\n',
    re.ASCII,
)
_CHUNK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*", re.ASCII)

T = TypeVar("T")


class Damaged(CheckpointError):
    """A text that is not a complete manifest. problem: what is wrong with it."""

    default_code = "E0701"

    def __init__(self, problem: str) -> None:
        super().__init__(f"a checkpoint cannot be read: {problem}")
        self.problem = problem


class SplitState(Struct, frozen=True):
    """The progress of reading one split. position: None means its beginning. event_time_us: the greatest
    event time before the position, where rows have one."""

    split: Split
    position: Position | None = None
    done: bool = False
    event_time_us: int | None = None


class SourceSnapshot(Struct, frozen=True):
    """A source's queue of splits.

    splits: as listed at the start of the run, in order. states: by split id, of the splits that were
    opened. A listed split without a state is unread; a split that was discovered later has only a
    state. carried: the value that the run started from (see `SourceConnector.splits`).
    """

    splits: tuple[Split, ...] = ()
    states: Mapping[str, SplitState] = field(default_factory=dict)
    carried: Any = None

    def all_states(self) -> list[SplitState]:
        """Every split with its state, in listing order. Splits that were discovered later come last."""
        listed = [self.states.get(split.id, SplitState(split)) for split in self.splits]
        listed_ids = {split.id for split in self.splits}
        return listed + [state for id_, state in self.states.items() if id_ not in listed_ids]

    def to_json(self) -> dict[str, Any]:
        listed = {split.id: split for split in self.splits}
        states: dict[str, Any] = {}
        for id_, state in self.states.items():
            position = state.position.to_json() if state.position is not None else None
            states[id_] = {"position": position, "done": state.done}
            if state.event_time_us is not None:
                states[id_]["event_time_us"] = state.event_time_us
            if listed.get(id_) != state.split:
                states[id_]["split"] = state.split.to_json()
        return {
            "splits": [split.to_json() for split in self.splits],
            "states": states,
            "carried": self.carried,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SourceSnapshot:
        splits = tuple(Split.from_json(each) for each in value["splits"])
        listed = {split.id: split for split in splits}
        states = {}
        for id_, state in value["states"].items():
            split = Split.from_json(state["split"]) if "split" in state else listed[id_]
            position = state["position"]
            states[id_] = SplitState(
                split,
                None if position is None else Position(position),
                bool(state["done"]),
                state.get("event_time_us"),
            )
        return cls(splits, states, value["carried"])


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


class Manifest(Struct, frozen=True):
    """One complete checkpoint.

    lineage: UUID text; attempt: the number of the lineage's attempt that wrote it; epoch: its number,
    from 1. final: the run ended with it. created_at: RFC 3339, UTC. fingerprints: of each step, to
    detect a changed workflow. sources, operators, committables, counters: by step.
    """

    lineage: str
    run_id: str
    attempt: int
    epoch: int
    created_at: str
    final: bool = False
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, SourceSnapshot] = field(default_factory=dict)
    operators: Mapping[str, Sequence[OperatorSnapshot]] = field(default_factory=dict)
    committables: Mapping[str, Sequence[Committable]] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    hash_id: str = HASH_ID
    encryption: None = None
    version: int = VERSION

    @property
    def chunks(self) -> dict[str, StateChunk]:
        """All state chunks that it refers to, by name."""
        return {
            chunk.name: chunk
            for snapshots in self.operators.values()
            for snapshot in snapshots
            for chunk in snapshot.chunks
        }

    def to_text(self) -> str:
        """The text to store. `from_text` reads the same manifest from it."""
        try:
            body = json.dumps(self._body(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InternalError(
                f"a checkpoint holds something that is not JSON: {error}"
            ) from error
        return (
            f'{{"format":"dataflare checkpoint","version":{self.version},'
            f'"checksum":"{_checksum(body)}","body":{body}}}\n'
        )

    def _body(self) -> dict[str, Any]:
        return {
            "lineage": self.lineage,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "epoch": self.epoch,
            "final": self.final,
            "created_at": self.created_at,
            "hash_id": self.hash_id,
            "fingerprints": dict(self.fingerprints),
            "sources": {step: source.to_json() for step, source in self.sources.items()},
            "operators": _lists(self.operators, OperatorSnapshot.to_json),
            "committables": _lists(self.committables, Committable.to_json),
            "counters": dict(self.counters),
            "encryption": self.encryption,
        } | ({"left_out": dict(self.left_out)} if self.left_out else {})

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read a manifest from its text. Raises Damaged (E0701), which says what is wrong with it."""
        frame = _FRAME.fullmatch(text)
        if frame is None:
            raise Damaged(_why_unframed(text))
        if int(frame["version"]) != VERSION:
            raise Damaged(
                f"its format has version {int(frame['version'])}, and this DataFlare reads version {VERSION}"
            )
        if frame["checksum"] != _checksum(frame["body"]):
            raise Damaged("its checksum does not match its content")
        try:
            return cls._from_body(json.loads(frame["body"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise Damaged(f"it is not a manifest ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> Manifest:
        if body["hash_id"] != HASH_ID:
            raise ValueError(f"its keys are hashed by '{body['hash_id']}', not '{HASH_ID}'")
        if body["encryption"] is not None:
            raise ValueError("it is encrypted")
        return cls(
            lineage=body["lineage"],
            run_id=body["run_id"],
            attempt=body["attempt"],
            epoch=body["epoch"],
            created_at=body["created_at"],
            final=body["final"],
            fingerprints=body["fingerprints"],
            sources={s: SourceSnapshot.from_json(v) for s, v in body["sources"].items()},
            operators=_tuples(body["operators"], OperatorSnapshot.from_json),
            committables=_tuples(body["committables"], Committable.from_json),
            counters=body["counters"],
            left_out=body.get("left_out", {}),
        )


def _lists(
    values: Mapping[str, Sequence[T]], to_json: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    return {step: [to_json(each) for each in items] for step, items in values.items()}


def _tuples(
    values: Mapping[str, Any], from_json: Callable[[Mapping[str, Any]], T]
) -> dict[str, tuple[T, ...]]:
    return {step: tuple(from_json(each) for each in items) for step, items in values.items()}


def _checksum(body: str) -> str:
    return xxhash.xxh3_64_hexdigest(body.encode("utf-8", "surrogatepass"))


def _why_unframed(text: str) -> str:
    if not text:
        return "it is empty"
    if not text.startswith('{"format":"dataflare checkpoint"'):
        return "it does not begin as a checkpoint does"
    if not text.endswith("}}\n"):
        return "its end is missing"
    return "its frame was changed"
