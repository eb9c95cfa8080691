"""A checksum of everything read so far that fits into a position and can be carried on from there.

Always true: it depends on the bytes alone, not on how they were divided into chunks.
"""

from __future__ import annotations

import xxhash

BLOCK_BYTES = 4 << 20


class ReadChecksum:
    """Whole blocks are folded into a chain; the unfinished block has a digest of its own. To carry
    on from a position only the unfinished block is read again."""

    def __init__(self, value: str | None = None) -> None:
        """value: of an earlier one, whose unfinished block must then be fed again."""
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
    """Of a few bytes at once."""
    return xxhash.xxh3_64_hexdigest(data)
