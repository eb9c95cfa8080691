"""The content of a chunk of state: an Arrow IPC file, of which the manifest knows length and checksum."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import xxhash

from dataflare.checkpoint.snapshots import StateChunk
from dataflare.errors import CheckpointError, InternalError

if TYPE_CHECKING:
    import polars as pl


def encoded_chunk(
    name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None
) -> tuple[StateChunk, bytes]:
    """What a manifest says of rows under this name, and their content."""
    from dataflare.model.batch import private

    buffer = io.BytesIO()
    private(frame).write_ipc(buffer, compression="zstd")
    data = buffer.getvalue()
    checksum = xxhash.xxh3_64_hexdigest(data)
    try:
        return StateChunk(name, frame.height, len(data), checksum, key_groups), data
    except ValueError as error:
        raise InternalError(str(error)) from error


def is_content_of(chunk: StateChunk, data: bytes) -> bool:
    """Whether these are the bytes that were written."""
    return len(data) == chunk.num_bytes and xxhash.xxh3_64_hexdigest(data) == chunk.checksum


def decoded_chunk(chunk: StateChunk, data: bytes) -> pl.DataFrame:
    """The rows. Raises CheckpointError (E0701) if the bytes are not those that were written."""
    import polars as pl

    if not is_content_of(chunk, data):
        raise bad_chunk(chunk, "its content is not what was written")
    try:
        return pl.read_ipc(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise bad_chunk(chunk, str(error)) from error


def bad_chunk(chunk: StateChunk, problem: str) -> CheckpointError:
    return CheckpointError(
        f"state chunk {chunk.name} cannot be read: {problem}",
        code="E0701",
        help="restore the file from a backup, or start over with --fresh",
    )
