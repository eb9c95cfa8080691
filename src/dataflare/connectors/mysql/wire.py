"""The client's connection, with what pymysql does not have: results by columns, and rows for LOAD DATA out
of memory.

Always true: the server gets a file's bytes only from `load`. A query that the server answers by asking for a
file is refused, so a server of an attacker cannot read files of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
from msgspec import Struct
from pymysql import err
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import COMMAND
from pymysql.protocol import OKPacketWrapper

_READ_BYTES = 1 << 20
_SEND_BYTES = 1 << 20
_LONG_PACKET = 0xFFFFFF


class FieldOf(Struct, frozen=True):
    """What the server says of a column of a result; see
    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset_column_definition.html"""

    name: str
    code: int
    flags: int
    length: int
    scale: int
    charset: int


class Loaded(Struct, frozen=True):
    """The result of a LOAD DATA. rows: that are in the table now."""

    rows: int
    warnings: int


class WireConnection(Connection):  # type: ignore[misc]
    """Blocking; one thread at a time, except for `abort`."""

    def forbid_files(self) -> None:
        """Called once, after connecting with LOAD DATA LOCAL switched on."""
        self._local_infile = False

    @property
    def is_secure(self) -> bool:
        return bool(self._secure)

    def load(self, sql: str, data: memoryview) -> Loaded:
        """Run a LOAD DATA LOCAL INFILE statement with these bytes as the file."""
        self._execute_command(COMMAND.COM_QUERY, sql)
        answer = self._read_packet()
        if not answer.is_load_local_packet():
            raise err.InternalError("the server did not ask for the rows of LOAD DATA")
        for start in range(0, len(data), _SEND_BYTES):
            self.write_packet(bytes(data[start : start + _SEND_BYTES]))
        self.write_packet(b"")
        done = OKPacketWrapper(self._read_packet())
        return Loaded(done.affected_rows, done.warning_count)

    def described(self, sql: str) -> tuple[FieldOf, ...]:
        """The columns of a query whose result has no rows, or few."""
        result = self._ask(sql)
        fields = _fields(result)
        for _ in self._packets():
            pass
        return fields

    def stream(self, sql: str) -> Iterator[pl.DataFrame]:
        """The result of a query in frames of about a megabyte; each value is Binary, as the server writes
        it as text."""
        names = [each.name for each in _fields(self._ask(sql))]
        for data, starts in self._packets():
            yield columns(data, starts, names)

    def abort(self) -> None:
        """Break the connection; from any thread. Never raises."""
        try:
            if self._sock is not None:
                self._sock.shutdown(2)
        except OSError:  # it is broken already
            pass

    def _ask(self, sql: str) -> Any:
        self._execute_command(COMMAND.COM_QUERY, sql)
        result = MySQLResult(self)
        result.init_unbuffered_query()
        result.unbuffered_active = False  # the rows are read here, not by pymysql
        return result

    def _packets(self) -> Iterator[tuple[bytes, list[int]]]:
        """Received bytes, and where the rows in them begin."""
        rest = b""
        while True:
            received = self._received()
            data = rest + received if rest else received
            starts, place, ended = _rows(data)
            if starts:
                yield data, starts
            if ended:
                return
            rest = data[place:]
            if len(rest) >= 4 and int.from_bytes(rest[:3], "little") == _LONG_PACKET:
                row, rest = self._long_row(rest)
                yield row, [0]

    def _long_row(self, data: bytes) -> tuple[bytes, bytes]:
        """A row of 16 MiB or more is in several packets. Returns it, and the bytes after it."""
        parts, place = bytearray(), 0
        while True:
            while len(data) < place + 4:
                data += self._received()
            size = int.from_bytes(data[place : place + 3], "little")
            pieces, missing = [data], place + 4 + size - len(data)
            while missing > 0:
                pieces.append(self._received())
                missing -= len(pieces[-1])
            data = b"".join(pieces) if len(pieces) > 1 else data
            parts += data[place + 4 : place + 4 + size]
            data, place = data[place + 4 + size :], 0
            if size < _LONG_PACKET:
                return bytes(parts), data

    def _received(self) -> bytes:
        if self._rfile is None:
            raise err.OperationalError(2013, "Lost connection to MySQL server during query")
        try:
            received: bytes = self._rfile.read1(_READ_BYTES)
        except (OSError, ValueError) as error:
            self._force_close()
            raise err.OperationalError(
                2013, f"Lost connection to MySQL server during query ({error})"
            ) from error
        if not received:
            self._force_close()
            raise err.OperationalError(2013, "Lost connection to MySQL server during query")
        return received


def _fields(result: Any) -> tuple[FieldOf, ...]:
    return tuple(
        FieldOf(f.name, f.type_code, f.flags, f.length, f.scale, f.charsetnr) for f in result.fields
    )


def _rows(data: bytes) -> tuple[list[int], int, bool]:
    """Where whole rows begin, where the first row begins that is not whole, and whether the result has
    ended. Raises pymysql's error if the server says one.

    This loop is the only work per row in Python: a third of a microsecond, for any number of columns."""
    starts: list[int] = []
    add, place, end = starts.append, 0, len(data)
    while place + 4 < end:
        size = data[place] | data[place + 1] << 8 | data[place + 2] << 16
        behind = place + 4 + size
        if behind > end or size == _LONG_PACKET:
            break
        first = data[place + 4]
        if first >= 0xFE:
            if first == 0xFF:
                err.raise_mysql_exception(data[place + 4 : behind])
            if size < 9:
                return starts, behind, True
        add(place + 4)
        place = behind
    return starts, place, False


def columns(data: bytes, starts: list[int], names: Sequence[str]) -> pl.DataFrame:
    """The values of rows that begin at these places, column by column. Each value has its length before it,
    in 1, 3, 4 or 9 bytes; a length of 0xFB is NULL."""
    whole = _bytes_of(data)
    place = pl.Series("place", starts, dtype=pl.Int64)
    series: list[pl.Series] = []
    for at in range(len(names)):
        first = whole.gather(place).cast(pl.Int64)
        is_null = first == 0xFB
        greatest = first.max()
        assert isinstance(greatest, int)
        if greatest < 0xFB:
            start, size = place + 1, first
        elif greatest == 0xFB:
            start, size = place + 1, first.zip_with(~is_null, _zeros(first))
        else:
            start, size = _long(whole, place, first)
        values = cut(data, start, size)
        if greatest >= 0xFB and is_null.any():
            values = values.set(is_null, None)
        series.append(values.alias(f"{at}"))
        place = start + size
    frame = pl.DataFrame(series) if series else pl.DataFrame(height=len(starts))
    return frame.rename({f"{at}": name for at, name in enumerate(names)})


def _zeros(like: pl.Series) -> pl.Series:
    return pl.Series(like.name, [0], dtype=pl.Int64).new_from_index(0, like.len())


def _long(whole: pl.Series, place: pl.Series, first: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The start and the size of values of which some are longer than 250 bytes."""
    frame = pl.DataFrame({"place": place, "first": first})
    width = (
        pl.when(pl.col("first") == 0xFC).then(2).when(pl.col("first") == 0xFD).then(3)
        .when(pl.col("first") == 0xFE).then(8).otherwise(0)
    )  # fmt: skip
    frame = frame.with_columns(width.cast(pl.Int64).alias("width"))
    size = first.zip_with(first < 0xFB, _zeros(first))
    widths, last = frame["width"], whole.len() - 1
    for at in range(8):
        has = widths > at
        if not has.any():
            break
        digit = whole.gather((place + (1 + at)).clip(0, last)).cast(pl.Int64) * (256**at)
        size = size + digit.zip_with(has, _zeros(first))
    return place + 1 + widths, size


def _bytes_of(data: bytes) -> pl.Series:
    array = pa.Array.from_buffers(pa.uint8(), len(data), [None, pa.py_buffer(data)])
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series


def cut(data: bytes, start: pl.Series, size: pl.Series) -> pl.Series:
    """The pieces of `data`, without a copy: an Arrow array in which each second value is a piece, and the
    others are what is between them."""
    pairs = pl.DataFrame({"start": start, "end": start + size}).select(
        pl.concat_arr("start", "end").explode().alias("edge")
    )
    edges = pairs["edge"].to_arrow()
    array = pa.Array.from_buffers(
        pa.large_binary(), len(edges) - 1, [None, edges.buffers()[1], pa.py_buffer(data)]
    )
    pieces = pl.from_arrow(array)
    assert isinstance(pieces, pl.Series)
    return pieces.gather_every(2)
