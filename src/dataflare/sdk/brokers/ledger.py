"""Which messages of a queue were given, and which of them the broker may forget. Pure: no network, no clock.

Always true:
- a message may be acknowledged when a checkpoint has it, never before;
- the id of a message is remembered until the broker certainly has its acknowledgement, and those of more than `window`
  later messages. Until then the message is not given again;
- an acknowledgement that was sent is not one that the broker has: a connection may have been broken before;
- a position has all that is remembered, so the same holds after a crash.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import xxhash

_DIGEST_BYTES = 16
NOTHING: Mapping[str, Any] = {"given": 0, "seen": ""}
"""The position of a queue that was never read."""


class Ledger:
    """Of one queue. position: what `position` gave, or NOTHING. committed: how many messages checkpoints are known to
    have."""

    def __init__(self, position: Mapping[str, Any], window: int, committed: int = 0) -> None:
        self.given = int(position["given"])
        self._window = window
        self._committed = committed
        # By id, how many acknowledgements the broker had with that of the message; None: it may deliver it again.
        self._seen: dict[bytes, int | None] = dict.fromkeys(_digests(position["seen"]))
        # The ids of the position of messages that did not come since: the broker may have forgotten them.
        self._earlier = set(self._seen)
        # How often a message is open or asked for beyond once.
        self._copies: Counter[bytes] = Counter()
        self._open: deque[tuple[int, Any, bytes | None]] = deque()
        self._asked: deque[bytes | None] = deque()
        self._settled = 0
        self._forgettable: deque[tuple[int, bytes]] = deque()
        self.repeated = 0

    @property
    def unacknowledged(self) -> int:
        return len(self._open)

    def admit(self, id_: str | None, tag: Any) -> bool:
        """Whether a message that was delivered is given. id_: what tells it from all others, if anything does. tag:
        by which it is acknowledged."""
        digest = None
        if id_ is not None:
            digest = xxhash.xxh3_128_digest(id_.encode("utf-8", "surrogatepass"))
            if digest in self._seen:
                self._came_again(digest, tag)
                return False
            self._seen[digest] = None
        self.given += 1
        self._open.append((self.given, tag, digest))
        return True

    def _came_again(self, digest: bytes, tag: Any) -> None:
        self.repeated += 1
        if digest in self._earlier:
            self._earlier.remove(digest)
        elif self._seen[digest] is None:
            self._copies[digest] += 1
        self._seen[digest] = None
        # It was given before, so that the next checkpoint has it.
        self._open.append((self.given, tag, digest))

    def position(self) -> dict[str, Any]:
        """Behind the last message that was given."""
        return {"given": self.given, "seen": base64.b64encode(b"".join(self._seen)).decode()}

    def committed(self, given: int) -> None:
        """A checkpoint that has the first `given` messages is committed."""
        self._committed = max(self._committed, given)

    def acknowledged(self) -> list[Any]:
        """The tags of the messages that may be acknowledged now, each once, in the order in which they came. The
        broker is to be asked in this order."""
        tags = []
        while self._open and self._open[0][0] <= self._committed:
            _, tag, digest = self._open.popleft()
            tags.append(tag)
            self._asked.append(digest)
        return tags

    def settled(self, total: int) -> None:
        """The broker certainly has the acknowledgements of the first `total` messages for which `acknowledged` gave tags."""
        while self._settled < total:
            self._settled += 1
            digest = self._asked.popleft()
            if digest is None:
                continue
            if self._copies[digest] > 0:
                self._copies[digest] -= 1
                continue
            del self._copies[digest]
            self._let_go(digest)
        self._forget()

    def may_forget(self) -> None:
        """The broker delivers no message again now that was delivered before the position."""
        for digest in self._earlier:
            self._let_go(digest)
        self._earlier.clear()

    def _let_go(self, digest: bytes) -> None:
        """Forget it after `window` more."""
        self._seen[digest] = self._settled
        self._forgettable.append((self._settled, digest))

    def _forget(self) -> None:
        waiting = self._forgettable
        while waiting and self._settled - waiting[0][0] > self._window:
            number, digest = waiting.popleft()
            if self._seen.get(digest) == number:  # else it came again
                del self._seen[digest]


def _digests(text: str) -> list[bytes]:
    data = base64.b64decode(text)
    return [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
