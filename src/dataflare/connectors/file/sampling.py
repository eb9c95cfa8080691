"""The samples of text files for type inference: from the beginning, the middle and the end."""

from __future__ import annotations

import codecs
import contextlib
import re

from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.names import FoundFile
from dataflare.connectors.file.source_config import FileSourceConfig
from dataflare.formats.any_file import AnyFile, open_bytes
from dataflare.formats.compression import detect, open_stream
from dataflare.formats.records import RECORD_BYTES_MAX

HEAD_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
HEADER_BYTES = 16 << 10
"""How much is read of a file that is not sampled."""
OTHER_FILES = 31
"""Types are inferred from the first file and the beginnings of this many others."""
_LETTER = rb"\xc0-\xd6\xd8-\xf6\xf8-\xfe"
_BEYOND_CP1252 = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d\xd7\xf7\xff]|(?<![A-Za-z%b])[%b](?![A-Za-z%b])" % ((_LETTER,) * 3)
)
_EMPTY_BYTES = 64
"""A compressed empty file is smaller than this."""


def compression_of(file: FoundFile, config: FileSourceConfig) -> str:
    with file_errors(file.path):
        return detect(file.path) if config.compression == "auto" else config.compression


def tasters(count: int) -> set[int]:
    """Which of `count` files to sample: the first, and others spread evenly."""
    if count <= OTHER_FILES + 1:
        return set(range(count))
    return {0} | {(count - 1) * step // OTHER_FILES for step in range(1, OTHER_FILES + 1)}


def sample_rows(config: FileSourceConfig, number: int) -> int:
    """The number of rows to sample from a file: fewer for the files after the first."""
    rows = config.schema_sample_rows
    return rows if number == 0 else max(rows // 8, min(rows, 100))


def without_empty(files: list[FoundFile], config: FileSourceConfig) -> list[FoundFile]:
    """The files without the empty ones: in every format, an empty file among others has no rows. If
    all files are empty, the first stays."""
    if len(files) == 1:
        return files
    return [file for file in files if not _is_empty(file, config)] or files[:1]


def _is_empty(file: FoundFile, config: FileSourceConfig) -> bool:
    """Whether a file is empty, or has only blank lines and a byte order mark."""
    if file.size > _EMPTY_BYTES:
        return False
    if file.size == 0:
        return True
    packed = compression_of(file, config)
    head, _ = head_of(file.path, packed, text_encoding(file.path, packed, config), _EMPTY_BYTES)
    return not head.removeprefix(codecs.BOM_UTF8).strip()


def is_utf8(encoding: str) -> bool:
    return encoding == "auto" or codecs.lookup(encoding).name in ("utf-8", "ascii")


def text_encoding(path: AnyFile, packed: str, config: FileSourceConfig) -> str:
    """The encoding of a text file: the option, or UTF-16 by its first bytes, or UTF-8."""
    if config.encoding != "auto":
        return config.encoding
    head, _ = head_of(path, packed, "utf-8", 4)
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_utf16 else "utf-8"


def csv_encoding(file: FoundFile, packed: str, config: FileSourceConfig, size: int) -> str:
    """Like `text_encoding`, but also cp1252: for text whose bytes beyond ASCII look like it
    (letters beside letters, and signs). If some of these bytes are valid UTF-8, the text is damaged
    UTF-8."""
    encoding = text_encoding(file.path, packed, config)
    if config.encoding != "auto" or encoding != "utf-8":
        return encoding
    head, _ = head_of(file.path, packed, encoding, size)
    if head.isascii():
        return encoding
    readable = head.decode(errors="ignore")
    if not readable.isascii():
        return encoding
    return "cp1252" if not _BEYOND_CP1252.search(head) else encoding


def head_of(path: AnyFile, packed: str, encoding: str, size: int) -> tuple[bytes, bool]:
    """The beginning of a file, with at least one record, and whether that is the whole file."""
    with file_errors(path):
        stream = open_stream(path, packed, encoding=encoding)
        try:
            data = stream.read(size)
            ended = len(data) < size
            while not ended and b"\n" not in data and len(data) < RECORD_BYTES_MAX:
                part = stream.read(len(data))
                ended = len(part) < len(data)
                data += part
            return data, ended
        finally:
            stream.close()


def later_pieces(file: FoundFile) -> list[bytes]:
    """Pieces from the middle and the end of a plain UTF-8 file; their first and last lines are
    incomplete."""
    pieces: list[bytes] = []
    with file_errors(file.path), contextlib.closing(open_bytes(file.path)) as opened:
        for place in (file.size // 2, file.size - PIECE_BYTES):
            if place > HEAD_BYTES:
                pieces.append(opened.read_at(place, PIECE_BYTES))
    return pieces


def first_rows(data: bytes, rows: int) -> bytes:
    """About the first `rows` lines. If the cut is inside quotes, the sample loses its last row."""
    if data.count(b"\n") <= rows:
        return data
    place = 0
    for _ in range(rows):
        place = data.find(b"\n", place) + 1
    return data[:place]
