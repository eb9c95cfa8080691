"""What is known of a stream: its ids, and what was lost of it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dataflare.connectors.redis.connection import RedisConnection, connected

_SEQUENCE_MAX = (1 << 64) - 1
BEGINNING = "0-0"


_RAW = ("XINFO STREAM", "XREAD", "XREADGROUP", "XPENDING", "XRANGE", "XREVRANGE")


def raw_client(config: RedisConnection, waits_s: float = 0.0) -> Any:
    """A client that gives answers about streams as the server sent them: redis-py's own form loses fields that are
    twice in an entry. waits_s: how long the server may wait before it answers."""
    made = connected(config, answers_in=config.timeout + waits_s)
    for command in _RAW:
        made.response_callbacks.pop(command, None)
    return made


class StreamState(Struct, frozen=True):
    """last_id: of the newest entry that was ever added. added: how many were ever added, and dropped: how many of the
    oldest are gone; None where the server does not tell, or where single entries were deleted."""

    length: int
    last_id: str
    added: int | None
    dropped: int | None


def state_of(info: Any) -> StreamState:
    """info: the answer to XINFO STREAM, as pairs in a list."""
    facts = dict(zip(info[::2], info[1::2], strict=True)) if isinstance(info, list) else info
    length, last_id = int(facts[b"length"]), facts[b"last-generated-id"].decode()
    added = facts.get(b"entries-added")
    if added is None or facts.get(b"max-deleted-entry-id") not in (None, BEGINNING.encode()):
        return StreamState(length, last_id, None, None)
    return StreamState(length, last_id, int(added), int(added) - length)


def number_of(id_: str) -> tuple[int, int]:
    """An id as what it is ordered by."""
    ms, _, sequence = id_.partition("-")
    return int(ms), int(sequence or 0)


def before(id_: str) -> str:
    """The greatest id that is less than this one."""
    ms, sequence = number_of(id_)
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{_SEQUENCE_MAX}" if ms else BEGINNING
