"""The files of a log: segments of blocks, each block the messages of one write.

Always true:
- a block is 24 bytes of head (a mark, the length of the body, the offset of its first message, a checksum over all of
  it) and a body, which is a list of messages in MessagePack;
- offsets count messages, and go on from block to block and from segment to segment;
- a segment is named after the offset of its first message.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from msgspec import Struct

HEAD = struct.Struct("<4sIQQ")
_MARK = b"DFL1"
_SUFFIX = ".log"
Message = Sequence[Any]
"""Its fields, in the order of the source's: bytes, texts, whole numbers, lists and mappings of them, None."""


class Place(Struct, frozen=True, order=True):
    """offset: of the next message. segment: the offset that names its file; byte: where in it the block begins."""

    offset: int
    segment: int
    byte: int


class Block(Struct, frozen=True):
    """offset: of its first message. body: the messages. num_bytes: with the head."""

    offset: int
    body: bytes
    num_bytes: int


def encoded(offset: int, messages: Sequence[Message]) -> bytes:
    """The block of these messages."""
    body = msgspec.msgpack.encode(messages)
    return HEAD.pack(_MARK, len(body), offset, _checksum(offset, body)) + body


def messages_of(block: Block) -> list[list[Any]]:
    found: list[list[Any]] = msgspec.msgpack.decode(block.body)
    return found


def count_of(block: Block) -> int:
    """How many messages a block has, without decoding them."""
    first = block.body[0]
    if first < 0xA0:
        return first & 0x0F
    return int.from_bytes(block.body[1 : 3 if first == 0xDC else 5], "big")


def block_at(data: bytes | memoryview, at: int) -> Block | None:
    """The block that begins at a byte; None where no whole one does."""
    if len(data) - at < HEAD.size:
        return None
    mark, length, offset, checksum = HEAD.unpack_from(data, at)
    if mark != _MARK or len(data) - at - HEAD.size < length or not length:
        return None
    body = bytes(data[at + HEAD.size : at + HEAD.size + length])
    if _checksum(offset, body) != checksum:
        return None
    return Block(offset, body, HEAD.size + length)


def block_after(data: bytes, at: int) -> bool:
    """Whether a whole block begins behind this byte."""
    while (at := data.find(_MARK, at + 1)) != -1:
        if block_at(data, at) is not None:
            return True
    return False


def length_at(head: bytes) -> int | None:
    """The length of a block by its head; None where there is none."""
    if len(head) < HEAD.size:
        return None
    mark, length, _, _ = HEAD.unpack_from(head)
    return HEAD.size + length if mark == _MARK else None


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}{_SUFFIX}"


def segments_in(folder: Path) -> list[int]:
    """The segments of a log, by their first offsets."""
    names = (entry.name for entry in os.scandir(folder))
    return sorted(
        int(name[:20]) for name in names if name.endswith(_SUFFIX) and name[:20].isdecimal()
    )


def _checksum(offset: int, body: bytes) -> int:
    return xxhash.xxh3_64_intdigest(body, seed=offset & 0xFFFF_FFFF_FFFF_FFFF)
