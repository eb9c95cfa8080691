"""The pieces of text files that types are found on: the beginning, the middle, the end."""

from __future__ import annotations

import codecs

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.listing import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.formats.compression import detect, open_stream
from dataflare.formats.records import RECORD_BYTES_MAX

HEAD_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
HEADER_BYTES = 16 << 10
"""What is read of a file that no sample is taken of."""
OTHER_FILES = 31
"""Types are found on the first file and on the beginnings of this many others."""
_EMPTY_BYTES = 64
"""A compressed file of nothing is smaller than this."""


def compression_of(file: FoundFile, config: FileSourceConfig) -> str:
    with file_errors(file.path):
        return detect(file.path) if config.compression == "auto" else config.compression


def tasters(count: int) -> set[int]:
    """Which of `count` files to take samples of: the first, and others spread evenly."""
    if count <= OTHER_FILES + 1:
        return set(range(count))
    return {0} | {(count - 1) * step // OTHER_FILES for step in range(1, OTHER_FILES + 1)}


def sample_rows(config: FileSourceConfig, number: int) -> int:
    """How many rows of a file to look at: fewer of the files after the first."""
    rows = config.schema_sample_rows
    return rows if number == 0 else max(rows // 8, min(rows, 100))


def without_empty(files: list[FoundFile], config: FileSourceConfig) -> list[FoundFile]:
    """The files that hold something: an empty one among others has no rows, in every format. A
    source whose files are all empty keeps the first."""
    if len(files) == 1:
        return files
    return [file for file in files if not _is_empty(file, config)] or files[:1]


def _is_empty(file: FoundFile, config: FileSourceConfig) -> bool:
    """Whether a file holds no bytes, or blank lines and a byte order mark alone."""
    if file.size > _EMPTY_BYTES:
        return False
    if file.size == 0:
        return True
    head, _ = head_of(file, compression_of(file, config), config, _EMPTY_BYTES)
    return not head.removeprefix(codecs.BOM_UTF8).strip()


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
