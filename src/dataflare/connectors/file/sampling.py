"""The pieces of text files that types are found on: the beginning, the middle, the end."""

from __future__ import annotations

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.listing import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.formats.compression import detect, open_stream
from dataflare.formats.records import RECORD_BYTES_MAX

HEAD_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
OTHER_FILES = 8
"""Types are found on the first file and on the beginnings of this many others."""


def compression_of(file: FoundFile, config: FileSourceConfig) -> str:
    with file_errors(file.path):
        return detect(file.path) if config.compression == "auto" else config.compression


def tasters(count: int) -> set[int]:
    """Which of `count` files to take samples of: the first, and others spread evenly."""
    if count <= OTHER_FILES + 1:
        return set(range(count))
    return {0} | {(count - 1) * step // OTHER_FILES for step in range(1, OTHER_FILES + 1)}


def head_of(
    file: FoundFile, packed: str, config: FileSourceConfig, size: int
) -> tuple[bytes, bool]:
    """The beginning of a file, at least one record of it, and whether that is all of it."""
    with file_errors(file.path):
        stream = open_stream(file.path, packed, encoding=config.encoding)
        try:
            data = stream.read(size)
            ended = len(data) < size
            while not ended and b"\n" not in data and len(data) < RECORD_BYTES_MAX:
                more = stream.read(len(data))
                ended = len(more) < len(data)
                data += more
            return data, ended
        finally:
            stream.close()


def later_pieces(file: FoundFile, config: FileSourceConfig) -> list[bytes]:
    """Pieces from the middle and the end of a plain UTF-8 file, broken lines at both ends."""
    pieces: list[bytes] = []
    if config.encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "ascii"):
        return pieces
    with file_errors(file.path), file.path.open("rb") as opened:
        for place in (file.size // 2, file.size - PIECE_BYTES):
            if place > HEAD_BYTES:
                opened.seek(place)
                pieces.append(opened.read(PIECE_BYTES))
    return pieces


def first_rows(data: bytes, rows: int) -> bytes:
    """About the first `rows` lines: a cut inside quotes costs the sample its last row."""
    if data.count(b"\n") <= rows:
        return data
    place = 0
    for _ in range(rows):
        place = data.find(b"\n", place) + 1
    return data[:place]
