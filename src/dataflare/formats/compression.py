"""Plain, gzip and zstd files as one stream of bytes with offsets into the plain text.

Always true: `read` returns fewer bytes than asked only at the end; a stream opened at an offset
gives the same bytes as one opened at 0 and read that far.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO, Any, Protocol

from dataflare.errors import DataError
from dataflare.formats.any_file import AnyFile, open_bytes, open_raw

GZIP, ZSTD, NONE = "gzip", "zstd", "none"
EXTENSIONS = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD}
_MAGIC = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD}
_SKIP = 1 << 20
_TAIL = 16 << 10
_ZSTD_BYTES = 32 << 10


class ByteStream(Protocol):
    """Bytes of a file in order."""

    def read(self, size: int) -> bytes: ...

    def read_lines(self, size: int) -> bytes:
        """As `read`, but may stop at a line end."""

    def close(self) -> None: ...


class PieceStream(ABC):
    """Bytes that are made piece by piece from another stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._ready = b""
        self._ended = False

    @abstractmethod
    def _next(self) -> bytes:
        """The next piece, perhaps empty. Sets `_ended` with the last one."""

    def read(self, size: int) -> bytes:
        parts, have = [self._ready], len(self._ready)
        while have < size and not self._ended:
            piece = self._next()
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        self._ready = whole[size:]
        return whole[:size]

    def read_lines(self, size: int) -> bytes:
        return self.read(size)

    def close(self) -> None:
        self._stream.close()


def split_extension(path: AnyFile) -> tuple[str, str]:
    """The format's extension and the compression that a name promises: `a.csv.gz` is
    (".csv", "gzip")."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in EXTENSIONS:
        return (suffixes[-2] if len(suffixes) > 1 else ""), EXTENSIONS[suffixes[-1]]
    return (suffixes[-1] if suffixes else ""), NONE


def detect(path: AnyFile) -> str:
    """How a file is compressed, by its first bytes: its name may be wrong."""
    with contextlib.closing(open_bytes(path)) as file:
        head = file.read_at(0, 4)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return NONE


def open_stream(
    path: AnyFile,
    compression: str,
    *,
    offset: int = 0,
    limit: int | None = None,
    encoding: str = "utf-8",
    rewrite: Callable[[ByteStream], ByteStream] | None = None,
) -> ByteStream:
    """The plain UTF-8 bytes of a file from `offset` on.

    compression: none, gzip or zstd. limit: read no further than this (plain files in UTF-8 only:
    the file may have grown since it was listed). encoding: transcoded to UTF-8 when it is another.
    rewrite: changes the text, such as comments; offsets are those of the changed text.
    Compressed, transcoded and rewritten streams are read again from the start up to `offset`.
    """
    utf8 = codecs.lookup(encoding).name in ("utf-8", "ascii")
    if compression == NONE and utf8 and rewrite is None:
        return _Plain(path, offset, limit)
    stream: ByteStream = (
        _Plain(path, 0, None) if compression == NONE else _Inflated(path, compression)
    )
    if not utf8:
        stream = _Transcoded(stream, path, encoding)
    if rewrite is not None:
        stream = rewrite(stream)
    while offset > 0:
        skipped = len(stream.read(min(offset, _SKIP)))
        if not skipped:
            break
        offset -= skipped
    return stream


class _Plain:
    """A file as it is."""

    def __init__(self, path: AnyFile, offset: int, limit: int | None) -> None:
        self._file = open_bytes(path)
        self._offset = offset
        self._limit = limit

    def read(self, size: int) -> bytes:
        if self._limit is not None:
            size = min(size, self._limit - self._offset)
        if size <= 0:
            return b""
        data = self._file.read_at(self._offset, size)
        self._offset += len(data)
        return data

    def read_lines(self, size: int) -> bytes:
        """About `size` bytes up to a line end, or more when there is none so soon; fewer at the
        end of the file. Saves copying the chunk to cut it."""
        if self._limit is not None:
            size = min(size, self._limit - self._offset)
        tail = min(size, _TAIL)
        if tail > 0:
            end = self._offset + size
            line_end = self._file.read_at(end - tail, tail).rfind(b"\n")
            if line_end >= 0:
                size = end - tail + line_end + 1 - self._offset
        return self.read(size)

    def close(self) -> None:
        self._file.close()


class _Inflated:
    """A gzip or zstd file of any number of members, inflated as it is read."""

    def __init__(self, path: AnyFile, compression: str) -> None:
        self._path = path
        self._read, self._raw = _inflater(path, compression)

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        remaining = size
        while remaining > 0:
            try:
                part = self._read(remaining)
            except (OSError, EOFError, zlib.error, _gzip_error(), _zstd_error()) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DataError(
                    f"{self._path} is damaged: {error}",
                    code="E0505",
                    help="the file was truncated or changed while it was copied; fetch it again",
                ) from error
            if not part:
                break
            parts.append(part)
            remaining -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_lines(self, size: int) -> bytes:
        return self.read(size)

    def close(self) -> None:
        self._raw.close()


def _inflater(path: AnyFile, compression: str) -> tuple[Callable[[int], bytes], IO[Any]]:
    raw = open_raw(path)
    if compression == ZSTD:
        return _ZstdFrames(raw).read, raw
    opened: Any = _gzip().open(raw, "rb")
    return opened.read, raw


class _ZstdFrames:
    """Frames one after another. (The library's own reader treats the end of a truncated file as a
    normal end.)"""

    def __init__(self, raw: IO[Any]) -> None:
        import zstandard

        self._raw = raw
        self._new = zstandard.ZstdDecompressor
        self._frame: Any = None
        self._ready = b""

    def read(self, size: int) -> bytes:
        while not self._ready:
            data = self._raw.read(_ZSTD_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return b""
            parts: list[bytes] = []
            while data:
                self._frame = self._frame or self._new().decompressobj()
                parts.append(self._frame.decompress(data))
                data = b""
                if self._frame.eof:
                    data, self._frame = self._frame.unused_data, None
            self._ready = b"".join(parts)
        data, self._ready = self._ready[:size], self._ready[size:]
        return data


def _gzip() -> Any:
    """isal inflates three times as fast as zlib."""
    try:
        return importlib.import_module("isal.igzip")
    except ImportError:
        return importlib.import_module("gzip")


def _gzip_error() -> type[Exception]:
    try:
        error_type: type[Exception] = importlib.import_module("isal.isal_zlib").error
    except ImportError:
        return zlib.error
    return error_type


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return zlib.error
    error_type: type[Exception] = zstandard.ZstdError
    return error_type


class _Transcoded:
    """Text in another encoding, as UTF-8."""

    def __init__(self, stream: ByteStream, path: AnyFile, encoding: str) -> None:
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._raw_offset = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._ended:
            raw = self._stream.read(size)
            self._ended = not raw
            try:
                text = self._decoder.decode(raw, final=self._ended)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._path} is not {self._encoding}: {error.reason} "
                    f"after byte {self._raw_offset + error.start}",
                    code="E0504",
                    help="set 'encoding' to the encoding of the file",
                ) from error
            self._raw_offset += len(raw)
            self._ready += text.encode()
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def read_lines(self, size: int) -> bytes:
        return self.read(size)

    def close(self) -> None:
        self._stream.close()


class Compressor:
    """Text as gzip or zstd, one member after another; `none` passes it on as it is.

    After `end_member` everything written so far can be inflated by itself, so a file can be cut
    back there.
    """

    def __init__(self, compression: str) -> None:
        self._compression = compression
        self._member: Any = None

    def write(self, data: bytes) -> bytes:
        if self._compression == NONE or not data:
            return data
        if self._member is None:
            self._member = _member(self._compression)
        compressed: bytes = self._member.compress(data)
        return compressed

    def end_member(self) -> bytes:
        if self._member is None:
            return b""
        compressed: bytes = self._member.flush()
        self._member = None
        return compressed


def _member(compression: str) -> Any:
    if compression == ZSTD:
        import zstandard

        return zstandard.ZstdCompressor(level=3).compressobj()
    try:
        isal = importlib.import_module("isal.isal_zlib")
        return isal.compressobj(2, isal.DEFLATED, 31)
    except ImportError:
        return zlib.compressobj(6, zlib.DEFLATED, 31)
