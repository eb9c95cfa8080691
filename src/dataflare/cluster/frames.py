"""What processes of a cluster send each other: a header of 16 bytes, and a body.

    header   kind (1 byte), 3 bytes that are 0, channel, length, length of the whole body (4 bytes each)
    rows     an Arrow IPC stream, the facts, whether pyarrow may read it (1 byte), length of the facts (4 bytes), how long ago
             the rows were read (8 bytes)
    mark     its type (1 byte), its fields as MessagePack
    credit   bytes given back, the window, rows that the reader wants at once
    message  bytes of the control plane

A large body is sent in pieces, so that those of other channels can go between them. Pieces of one channel and kind follow
each other in order. All numbers are big-endian.

Large streams are written and read by pyarrow where it is installed, because it copies less: 1 MiB is read in 0.04 ms instead of
0.43, and written in 0.29 instead of 0.39. Both libraries read what the other one writes.

Always true: a batch that was decoded has the rows, types, row kinds, metadata, watermark and trace of the one that was
encoded. A batch that could not have is refused, with the reason.
"""

from __future__ import annotations

import enum
import io
import struct
from typing import Any, Literal, NamedTuple

import msgspec
import polars as pl
from msgspec import Struct

try:
    import pyarrow
except ImportError:
    pyarrow = None

from dataflare.engine.pool import INLINE_BYTES
from dataflare.errors import InternalError, RunError
from dataflare.model.batch import SharedDataBatch, private
from dataflare.model.progress import END, IDLE, Barrier, End, Idle, Mark, Watermark
from dataflare.sdk.tracing import Traced, traceparent_of

Compression = Literal["none", "lz4", "zstd"]

_SPARE_BYTES = 4 << 10
"""What the schema and the ends of columns take, for most batches."""
BODY_MAX = (1 << 32) - 1
"""A body is shorter than 4 GiB, because its length has 4 bytes."""
PIECE_BYTES = 256 << 10
"""A body that is longer is sent in pieces. On a network of 1 Gbit/s a piece takes 2 ms."""

_ARROW_READS, _ARROW_WRITES = 128 << 10, 512 << 10
"""From so many bytes on pyarrow is faster than Polars. It takes 0.035 ms however many they are, so this needs no thread."""

_BUFFERS_SHARE = 1.25
_ARROW_TYPES = frozenset(
    {
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
        *(pl.Float32, pl.Float64, pl.Decimal, pl.Boolean, pl.String, pl.Binary, pl.Null),
        *(pl.Date, pl.Time, pl.Datetime, pl.Duration),
    }
)
_UNREADABLE: tuple[type[Exception], ...] = (
    *(struct.error, msgspec.MsgspecError, pl.exceptions.PolarsError),
    *(() if pyarrow is None else (pyarrow.ArrowException,)),
)
_LEVEL = pl.CompatLevel.newest()
"""Text stays as Polars holds it: other levels convert every value."""

_HEADER = struct.Struct(">B3xIII")
_ROWS_END = struct.Struct(">?Id")
_CREDIT = struct.Struct(">QQq")
HEADER_BYTES = _HEADER.size
CREDIT_BYTES = _CREDIT.size


class Kind(enum.IntEnum):
    """What a body is. CLOSE: nothing follows, and no answer is wanted. Those from MARK on have short bodies."""

    MESSAGE = 1
    ROWS = 2
    MARK = 3
    CREDIT = 4
    CANCEL = 5
    PROBE = 6
    CLOSE = 7


class BadBody(Exception):
    """A body is not what its kind says."""


KINDS = frozenset(Kind)
ON_CHANNELS = frozenset({Kind.ROWS, Kind.MARK, Kind.CREDIT, Kind.CANCEL})
SHORT_MAX = 1 << 20
"""No body is longer, except those of rows and messages."""


class Header(NamedTuple):
    """length: of this piece. whole: of the body that the piece belongs to."""

    kind: int
    channel: int
    length: int
    whole: int


class Credit(NamedTuple):
    """What a reader tells its writer. returned: bytes that it has taken. window: so many may be on their way. timely_rows:
    as `WritableChannel.timely_rows`."""

    returned: int
    window: int
    timely_rows: int | None


class _Facts(Struct, array_like=True, omit_defaults=True):
    """What a batch has besides its rows. Most batches have nothing."""

    metadata: dict[str, Any] | None = None
    watermark: int | None = None
    contexts: tuple[str, ...] | None = None
    across: str = ""


_facts = msgspec.msgpack.Decoder(_Facts)


def header(kind: Kind, channel: int, length: int, whole: int | None = None) -> bytes:
    return _HEADER.pack(kind, channel, length, length if whole is None else whole)


def put_header(target: memoryview, kind: Kind, channel: int, length: int, whole: int) -> None:
    """Write a header at the beginning of a buffer."""
    _HEADER.pack_into(target, 0, kind, channel, length, whole)


def read_header(source: memoryview | bytearray, at: int = 0) -> Header:
    return Header._make(_HEADER.unpack_from(source, at))


# --- credit ---------------------------------------------------------------------------------------


def credit_body(credit: Credit) -> bytes:
    timely = -1 if credit.timely_rows is None else credit.timely_rows
    return _CREDIT.pack(credit.returned, credit.window, timely)


def read_credit(body: bytes) -> Credit:
    """Raises BadBody for what is not credit."""
    try:
        returned, window, timely = _CREDIT.unpack(body)
    except struct.error as error:
        raise BadBody(f"it sent credit that cannot be read: {error}") from error
    return Credit(returned, window, None if timely < 0 else timely)


# --- marks ----------------------------------------------------------------------------------------

_TYPES: tuple[type[Mark], ...] = (Watermark, Idle, Barrier, End)
_TYPE_NUMBERS = {each: number for number, each in enumerate(_TYPES)}
_MARK_DECODERS = tuple(msgspec.msgpack.Decoder(each) for each in _TYPES)


def mark_body(mark: Mark) -> bytes:
    return bytes((_TYPE_NUMBERS[type(mark)],)) + msgspec.msgpack.encode(mark)


def read_mark(body: bytes) -> Mark:
    """Raises BadBody for what is not a mark."""
    try:
        mark: Mark = _MARK_DECODERS[body[0]].decode(memoryview(body)[1:])
    except (LookupError, msgspec.MsgspecError) as error:
        raise BadBody(f"it sent a mark that cannot be read: {error}") from error
    return IDLE if type(mark) is Idle else END if type(mark) is End else mark


# --- rows -----------------------------------------------------------------------------------------


def room_for(batch: SharedDataBatch) -> io.BytesIO:
    """Memory to encode a batch in. Taken by the thread of the loop: threads of a pool have memory of their own, which they
    give back to the system after each batch, and to get it again took twice as long as to encode."""
    return io.BytesIO(bytes(HEADER_BYTES + _SPARE_BYTES + batch.num_bytes * 3 // 2))


def rows_body(batch: SharedDataBatch, compression: Compression, target: io.BytesIO) -> memoryview:
    """A batch, encoded, behind the room for a header. Its age is set when it is sent: see `set_age`."""
    facts = _encoded_facts(batch)
    frame = private(batch.frame)
    size = batch.num_bytes
    large = pyarrow is not None and compression == "none" and size >= _ARROW_READS
    arrow = large and all(_is_arrow(name, dtype) for name, dtype in frame.schema.items())
    target.seek(HEADER_BYTES)
    table = frame.to_arrow(compat_level=_LEVEL) if arrow and size >= _ARROW_WRITES else None
    # pyarrow writes whole buffers of text, also those of which a filter or an exchange left a tenth.
    if table is not None and table.get_total_buffer_size() <= size * _BUFFERS_SHARE:
        with pyarrow.ipc.new_stream(target, table.schema) as writer:
            writer.write_table(table)
    else:
        chosen = "uncompressed" if compression == "none" else compression
        frame.write_ipc_stream(target, compression=chosen, compat_level=_LEVEL)
    target.write(facts)
    target.write(_ROWS_END.pack(arrow, len(facts), -1.0))
    length = target.tell()
    if length - HEADER_BYTES > BODY_MAX:
        raise RunError(
            f"a batch of {batch.num_rows:,} rows has {length:,} bytes, and a link takes less than 4 GiB at once",
            code="E0832",
            help="set batch.max in the settings, so that batches have fewer rows",
        )
    return target.getbuffer()[:length]


def is_soon_read(body: bytes) -> bool:
    """Whether rows are read in less than a millisecond."""
    return len(body) < INLINE_BYTES or (pyarrow is not None and body[-_ROWS_END.size] == 1)


def _is_arrow(name: str, dtype: Any) -> bool:
    """Whether a column is the same after it went through pyarrow. Names end at their first NUL there, and some types do not
    exist."""
    if "\0" in name:
        return False
    if isinstance(dtype, pl.Struct):
        return all(_is_arrow(field.name, field.dtype) for field in dtype.fields)
    if isinstance(dtype, pl.List):
        return _is_arrow("", dtype.inner)
    return dtype.base_type() in _ARROW_TYPES


def set_age(body: memoryview, age_s: float) -> None:
    """How long ago the rows of an encoded batch were read; below 0: it is not known."""
    struct.pack_into(">d", body, len(body) - 8, age_s)


def read_rows(body: bytes, arrived_s: float) -> SharedDataBatch:
    """The batch of a body. arrived_s: when its first bytes came, by the loop's clock. Raises BadBody for what is not one."""
    try:
        end = len(body) - _ROWS_END.size
        arrow, length, age_s = _ROWS_END.unpack_from(body, max(0, end))
        facts = _facts.decode(memoryview(body)[end - length : end]) if length else _Facts()
        # Both read to the end of the stream. Polars copies what does not begin with its first byte.
        if arrow and pyarrow is not None:
            frame = pl.DataFrame(pyarrow.ipc.open_stream(pyarrow.py_buffer(body)))
        else:
            frame = pl.read_ipc_stream(io.BytesIO(body))
    except _UNREADABLE as error:
        raise BadBody(f"it sent rows that cannot be read: {error}") from error
    return SharedDataBatch(
        frame,
        metadata=facts.metadata or {},
        watermark=None if facts.watermark is None else Watermark(facts.watermark),
        read_at_s=arrived_s - age_s if age_s >= 0 else 0.0,
        traced=None if facts.contexts is None else Traced(facts.contexts, facts.across),
    )


def _encoded_facts(batch: SharedDataBatch) -> bytes:
    if not (batch.metadata or batch.watermark or batch.traced):
        return b""
    traced: Traced | None = batch.traced
    for name, value in batch.metadata.items():
        _refuse_other_values(name, value)
    facts = _Facts(dict(batch.metadata) or None)
    if batch.watermark is not None:
        facts.watermark = batch.watermark.event_time_us
    if traced is not None:
        facts.contexts, facts.across = tuple(map(traceparent_of, traced.contexts)), traced.across
    return msgspec.msgpack.encode(facts)


_PLAIN = (bool, float, str, bytes)
_INTEGERS = range(-(1 << 63), 1 << 64)


def _refuse_other_values(name: str, value: Any) -> None:
    """Raise InternalError for a value that would not come out as it is."""
    if isinstance(value, dict) and all(type(key) is str for key in value):
        for each in value.values():
            _refuse_other_values(name, each)
    elif type(value) is list:
        for each in value:
            _refuse_other_values(name, each)
    elif type(value) is not int and value is not None and type(value) not in _PLAIN:
        raise InternalError(
            f"the fact '{name}' of a batch has a value of type {type(value).__name__}, which is not sent to other processes",
            help="please report this",
        )
    elif type(value) is int and value not in _INTEGERS:
        raise InternalError(
            f"the fact '{name}' of a batch is an integer of more than 64 bits",
            help="please report this",
        )
