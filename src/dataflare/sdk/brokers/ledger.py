"""Which messages of a queue were given, and which of them the broker may forget. Pure: no network, no clock.

Always true:
- a message may be acknowledged when a checkpoint has it, never before;
- a message that is delivered again is not given again while its id is remembered: as long as it is not acknowledged,
  and then until more than `window` later ones were;
- a position has all that is remembered, so the same holds after a crash.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping
from typing import Any

import xxhash

_DIGEST_BYTES = 16
NOTHING: Mapping[str, Any] = {"given": 0, "seen": ""}
"""The position of a queue that was never read."""


class Ledger:
    """Of one queue. position: what `position` gave, or NOTHING. committed: how many messages checkpoints are known to
    have. keeps: whether the ids of the position are remembered until `may_forget` is called, however many messages
    come: because the broker delivers again after a time, not at once."""

    def __init__(
        self, position: Mapping[str, Any], window: int, committed: int = 0, *, keeps: bool = False
    ) -> None:
        self.given = int(position["given"])
        self._window = window
        self._kept = self.given if keeps else -1
        self._committed = committed
        # The numbers of messages by their ids, the oldest first. Those of a position are at most `given`.
        self._seen = dict.fromkeys(_digests(position["seen"]), self.given)
        self._open: deque[tuple[int, Any]] = deque()
        self.repeated = 0

    @property
    def unacknowledged(self) -> int:
        return len(self._open)

    def admit(self, id_: str | None, tag: Any) -> bool:
        """Whether a message that was delivered is given. id_: what tells it from all others, if anything does. tag:
        by which it is acknowledged."""
        if id_ is not None:
            digest = xxhash.xxh3_128_digest(id_.encode("utf-8", "surrogatepass"))
            if digest in self._seen:
                self.repeated += 1
                # It was given before, so that the next checkpoint has it.
                self._open.append((self.given, tag))
                return False
            self._seen[digest] = self.given + 1
        self.given += 1
        self._open.append((self.given, tag))
        return True

    def position(self) -> dict[str, Any]:
        """Behind the last message that was given."""
        return {"given": self.given, "seen": base64.b64encode(b"".join(self._seen)).decode()}

    def committed(self, given: int) -> None:
        """A checkpoint that has the first `given` messages is committed."""
        self._committed = max(self._committed, given)

    def acknowledged(self) -> list[Any]:
        """The tags of the messages that may be acknowledged now, each once, in the order in which they came."""
        tags = []
        while self._open and self._open[0][0] <= self._committed:
            tags.append(self._open.popleft()[1])
        self._forget()
        return tags

    def may_forget(self) -> None:
        """The broker delivers no message again now that was delivered before the position."""
        self._kept = -1

    def _forget(self) -> None:
        """Let go of ids after which more than `window` messages were acknowledged. Those of a position may belong to
        messages that are still to be delivered again, and count from the moment when it was read."""
        old = []
        for digest, number in self._seen.items():
            if number <= self._kept:
                continue
            if self._committed - number <= self._window:
                break
            old.append(digest)
        for digest in old:
            del self._seen[digest]


def _digests(text: str) -> list[bytes]:
    data = base64.b64decode(text)
    return [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
