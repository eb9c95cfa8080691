"""A checksum of all bytes read so far. It is small enough for a position, and can be continued from
it.

Always true: it depends on the bytes alone, not on how they were divided into chunks.
"""

from __future__ import annotations

import xxhash

BLOCK_BYTES = 4 << 20


class ReadChecksum:
    """Each whole block is added to a chain of digests; the unfinished block has a separate digest.
    To continue from a position, only the unfinished block is read again."""

    def __init__(self, value: str | None = None) -> None:
        """value: of an earlier checksum; the caller then passes its unfinished block to `update`
        again."""
        self._chain = value.partition(":")[0] if value else ""
        self._block = xxhash.xxh3_64()
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            part = view[: BLOCK_BYTES - self._filled]
            self._block.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._chain = checksum((self._chain + self._block.hexdigest()).encode())
                self._block, self._filled = xxhash.xxh3_64(), 0

    @property
    def value(self) -> str:
        return f"{self._chain}:{self._block.hexdigest()}"


def checksum(data: bytes) -> str:
    """The checksum of a few bytes."""
    return xxhash.xxh3_64_hexdigest(data)
