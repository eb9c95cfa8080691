"""A manifest: the content of one checkpoint, as a text with a checksum.

The text is one line of JSON: a fixed frame around a body with sorted keys:

    {"format":"dataflare checkpoint","version":4,"checksum":"<xxh3_64 of the body>","body":{...}}

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
from msgspec.structs import replace

from dataflare.checkpoint.snapshots import (
    OperatorSnapshot,
    SourceSnapshot,
    SplitState,
    StateChunk,
    StoredParts,
)
from dataflare.errors import CheckpointError, InternalError
from dataflare.model.hashing import HASH_ID
from dataflare.sdk.destination import Committable

VERSION = 4
_READABLE = (1, 2, 4)
"""Version 1 has every part of a source in the manifest, which the others still allow. In version 4 a committable may have
its rows with it. There is no version 3: with one changed bit it would be 1 or 2."""
_FRAME = re.compile(
    r'\{"format":"dataflare checkpoint","version":(?P<version>[0-9]+),'
    r'"checksum":"(?P<checksum>[0-9a-f]{16})","body":(?P<body>\{.*\})\}\n',
    re.ASCII,
)

__all__ = [
    "VERSION",
    "Damaged",
    "Manifest",
    "OperatorSnapshot",
    "SourceSnapshot",
    "SplitState",
    "StateChunk",
    "StoredParts",
]

T = TypeVar("T")


class Damaged(CheckpointError):
    """A text that is not a complete manifest. problem: what is wrong with it."""

    default_code = "E0701"

    def __init__(self, problem: str) -> None:
        super().__init__(f"a checkpoint cannot be read: {problem}")
        self.problem = problem


class Manifest(Struct, frozen=True):
    """One complete checkpoint.

    lineage: UUID text; attempt: the number of the lineage's attempt that wrote it; epoch: its number,
    from 1. final: the run ended with it. created_at: RFC 3339, UTC. fingerprints: of each step, to
    detect a changed workflow. types: of each step, its section and type ("source file"); empty in version 1.
    sources, operators, committables, counters: by step. event_times: of each source that has one, what its event
    time is; None if an earlier version wrote it, which did not say so.
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
    types: Mapping[str, str] = field(default_factory=dict)
    event_times: Mapping[str, str] | None = None
    hash_id: str = HASH_ID
    encryption: None = None

    @property
    def chunks(self) -> dict[str, StateChunk]:
        """All chunks that it refers to, by name."""
        of_sources = (source.stored.chunks for source in self.sources.values() if source.stored)
        return {chunk.name: chunk for chunks in of_sources for chunk in chunks} | self.state_chunks

    @property
    def state_chunks(self) -> dict[str, StateChunk]:
        """The chunks of operators, by name."""
        return {
            chunk.name: chunk
            for snapshots in self.operators.values()
            for snapshot in snapshots
            for chunk in snapshot.chunks
        }

    def for_destinations(self) -> str:
        """Its text without rows: a destination that keeps it has committed its own."""
        committables = {
            step: tuple(replace(each, content=b"") for each in shares)
            for step, shares in self.committables.items()
        }
        return replace(self, committables=committables).to_text()

    def to_text(self) -> str:
        """The text to store. `from_text` reads the same manifest from it."""
        try:
            body = json.dumps(self._body(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InternalError(
                f"a checkpoint holds something that is not JSON: {error}"
            ) from error
        return (
            f'{{"format":"dataflare checkpoint","version":{VERSION},'
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
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            **({"types": dict(self.types)} if self.types else {}),
            **({} if self.event_times is None else {"event_times": dict(self.event_times)}),
        }

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Read a manifest from its text. Raises Damaged (E0701), which says what is wrong with it."""
        frame = _FRAME.fullmatch(text)
        if frame is None:
            raise Damaged(_why_unframed(text))
        if int(frame["version"]) not in _READABLE:
            raise Damaged(
                f"its format has version {int(frame['version'])}, and this DataFlare reads versions 1 to {VERSION}"
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
            types=body.get("types", {}),
            event_times=body.get("event_times"),
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
