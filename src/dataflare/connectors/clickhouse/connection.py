"""Requests to a server's HTTP interface, all with the same settings.

Always true: a password is only in `Server.password`, which no repr shows, and in a header; a value is in SQL
only as a number or in hexadecimal, so its text cannot become SQL; a stream of rows is whole, or raises: its
end is told from its breaking off by the end mark of Arrow's format, because the server answers 200 before it
has read the rows.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import threading
import time as clock
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote, urlencode

import polars as pl
import pyarrow as pa

from dataflare.connectors.clickhouse.config import ClickhouseConfig
from dataflare.connectors.clickhouse.errors import (
    Interrupted,
    Refused,
    clickhouse_errors,
    exception_in,
)
from dataflare.errors import SystemError_
from dataflare.model.record import Discreet
from dataflare.sdk.sql.server_urls import UrlForm, keep_alive, unreadable_files

_LEAST = (24, 3)
"""The oldest version that is accepted."""
_URL = UrlForm(
    "ClickHouse",
    ("clickhouse", "http", "https"),
    ("secure", "ca", "cert", "key", "verify"),
    "it is not such a URL",
    "clickhouse://host:8123/database",
)
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
_IDLE_S = 2.0
"""A connection that was not used for longer is not used again: the server may be closing it."""
_SENT = {
    "wait_end_of_query": "1",
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "input_format_null_as_default": "0",
    "date_time_input_format": "basic",
    "max_partitions_per_insert_block": "0",
}
"""Of an INSERT: it is answered when its rows are there, and views get a repeated one once."""
_READ = {
    "output_format_arrow_string_as_string": "0",
    "output_format_arrow_low_cardinality_as_dictionary": "0",
    "output_format_arrow_fixed_string_as_fixed_byte_array": "1",
    "cancel_http_readonly_queries_on_client_close": "1",
    "date_time_overflow_behavior": "throw",
}
_JSON = {"output_format_json_quote_64bit_integers": "0", "output_format_json_quote_denormals": "1"}
END_MARK = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What stands at the end of an Arrow stream."""
_TAIL_BYTES = 4096


class Server(Discreet, frozen=True):
    """A database and how long to wait for it."""

    hidden = ("password",)

    host: str
    port: int
    user: str
    password: str
    database: str
    secure: bool = False
    verify: bool = True
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    connect_timeout_s: float = 10.0
    statement_timeout_s: float | None = None

    @classmethod
    def of(cls, config: ClickhouseConfig) -> Server:
        """Raises ConfigError (E0414) if the text is not a connection string, without showing it."""
        parts, options = _URL.read(config.connection_string)
        secure = _flag(options, "secure", default=parts.scheme == "https")
        database = unquote(parts.path.removeprefix("/"))
        if "/" in database:
            raise _URL.refused()
        return cls(
            host=parts.hostname or "localhost", port=parts.port or (8443 if secure else 8123),
            user=unquote(parts.username or "default"), password=unquote(parts.password or ""),
            database=database or "default", secure=secure,
            verify=_flag(options, "verify", default=True), ca=options.get("ca"),
            cert=options.get("cert"), key=options.get("key"),
            connect_timeout_s=config.connect_timeout, statement_timeout_s=config.statement_timeout,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Host and port, and database, for messages."""
        return f"{self.host}:{self.port}/{self.database}"

    def connect(self) -> Client:
        """A client whose server has answered. Raises DataFlare's errors."""
        client = Client(self)
        try:
            with clickhouse_errors(self.label, "connecting"):
                client.look()
        except BaseException:
            client.close()
            raise
        return client

    def tls(self) -> ssl.SSLContext | None:
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise unreadable_files(self.label, error, "ca, cert and key") from error
        return context


def _flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name, str(default)).lower()
    if text not in (*_TRUE, *_FALSE):
        raise _URL.refused(f"'{name}' is true or false")
    return text in _TRUE


class Client:
    """Requests, one at a time. Blocking; one thread at a time, except for `abort`. Raises Refused, Interrupted,
    HTTPException and OSError."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.label = server.label
        self.version = ""
        self.timezone = "UTC"
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._aborted = threading.Event()

    @property
    def is_encrypted(self) -> bool:
        return self._server.secure

    def look(self) -> None:
        """Ask for version and zone. Raises an error for an old server, and for a database that is not there."""
        [(self.version, self.timezone, found)] = self.rows(
            "select version(), timezone(), (select count() from system.databases where name = "
            f"{literal(self._server.database)})",
            database="",
        )
        parts = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        if parts < _LEAST:
            raise SystemError_(
                f"{self.label} is ClickHouse {self.version}, and {'.'.join(map(str, _LEAST))} or newer "
                "is needed",
                code="E0600",
                help="use a newer server",
            )
        if not found:
            raise Refused(81, f"there is no database {self._server.database}")

    # -- statements --------------------------------------------------------------------------------

    def run(self, sql: str) -> None:
        """Run a statement that may be run twice."""
        self._whole(sql, {})

    def rows(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """A small result."""
        text = self._whole(f"{sql} format JSONCompactEachRow", _JSON, database=database)
        return [tuple(json.loads(line)) for line in text.splitlines() if line]

    def insert(self, place: str, names: str, body: bytes, token: str | None) -> None:
        """Insert rows, an Arrow stream. token: the same rows with the same token are inserted once."""
        settings = dict(_SENT)
        if token is not None:
            settings["insert_deduplication_token"] = token
        sql = f"insert into {place} ({names}) format ArrowStream"
        self._whole(sql, settings, body=body)

    def stream(self, sql: str) -> Iterator[pl.DataFrame]:
        """The rows of a query; texts are binary."""
        response = self._begin(f"{sql} format ArrowStream", _READ)
        body = _Body(response)
        try:
            reader = pa.ipc.open_stream(pa.PythonFile(body, mode="r"))
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    break
                if batch.num_rows:
                    yield _frame(pa.Table.from_batches([batch]))
            body.check_end()
        except pa.ArrowInvalid as error:
            body.drain()
            raise exception_in(body.tail) or Interrupted(f"the rows break off: {error}") from error
        except Interrupted as error:
            raise exception_in(body.tail) or error from None
        finally:
            if not response.isclosed():
                self.close()

    # -- HTTP --------------------------------------------------------------------------------------

    def _whole(
        self,
        sql: str,
        settings: Mapping[str, str],
        body: bytes | None = None,
        database: str | None = None,
    ) -> bytes:
        response = self._begin(sql, settings, body, database)
        return response.read()

    def _begin(
        self,
        sql: str,
        settings: Mapping[str, str],
        body: bytes | None = None,
        database: str | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request, and give its answer if that is not an error."""
        fresh = self._open()
        try:
            response = self._send(sql, settings, body, database)
        except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError):
            self.close()
            if fresh or self._aborted.is_set():
                raise
            # The server had closed a connection that was idle. All statements may be sent twice.
            self._open()
            response = self._send(sql, settings, body, database)
        except BaseException:
            self.close()
            raise
        self._used_at = clock.monotonic()
        if response.status != 200:
            said = response.read()
            number = response.headers.get("X-ClickHouse-Exception-Code") or "0"
            raise Refused.of(int(number) if number.isdigit() else 0, said)
        return response

    def _open(self) -> bool:
        """Whether the connection is a new one."""
        if self._aborted.is_set():
            raise ConnectionAbortedError("the connection was ended")
        if self._connection is not None:
            if clock.monotonic() - self._used_at < _IDLE_S:
                return False
            self.close()
        server = self._server
        context = server.tls()
        made: http.client.HTTPConnection
        if context is not None:
            made = http.client.HTTPSConnection(
                server.host, server.port, timeout=server.connect_timeout_s, context=context
            )
        else:
            made = http.client.HTTPConnection(
                server.host, server.port, timeout=server.connect_timeout_s
            )
        made.connect()
        sock = made.sock
        assert sock is not None
        sock.settimeout(server.statement_timeout_s)
        keep_alive(sock)
        self._connection = made
        return True

    def _send(
        self, sql: str, settings: Mapping[str, str], body: bytes | None, database: str | None
    ) -> http.client.HTTPResponse:
        assert self._connection is not None
        params = {"database": self._server.database if database is None else database, **settings}
        params = {name: value for name, value in params.items() if value}
        if body is not None:
            params["query"] = sql
        self._connection.request(
            "POST",
            f"/?{urlencode(params, quote_via=quote)}",
            body=sql.encode() if body is None else body,
            headers={
                # http.client writes a header in Latin-1; so these are the bytes of UTF-8.
                "X-ClickHouse-User": self._server.user.encode().decode("latin-1"),
                "X-ClickHouse-Key": self._server.password.encode().decode("latin-1"),
                "User-Agent": "dataflare",
            },
        )
        return self._connection.getresponse()

    def abort(self) -> None:
        """Break the connection; from any thread. Never raises."""
        self._aborted.set()
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def close(self) -> None:
        """Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Body(io.RawIOBase):
    """The body of an answer, with its last bytes."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        super().__init__()
        self._response = response
        self.tail = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size
        while left != 0:
            part = self._next(left if left > 0 else 2**20)
            if not part:
                break
            parts.append(part)
            left = left - len(part) if left > 0 else left
        found = parts[0] if len(parts) == 1 else b"".join(parts)
        if found:
            self.tail = (
                found[-_TAIL_BYTES:] if len(found) >= 64 else (self.tail + found)[-_TAIL_BYTES:]
            )
        return found

    def _next(self, size: int) -> bytes:
        try:
            return self._response.read(size)
        except http.client.HTTPException as error:
            if isinstance(error, http.client.IncompleteRead):
                self.tail = (self.tail + error.partial)[-_TAIL_BYTES:]
            raise Interrupted("the answer broke off") from error

    def drain(self) -> None:
        """Read the rest, for the error at its end."""
        try:
            while self.read(2**20):
                pass
        except (Interrupted, OSError):
            return

    def check_end(self) -> None:
        """Raises Interrupted if the stream did not end with its end mark, or something follows it."""
        if not self.tail.endswith(END_MARK) or self.read(1):
            self.drain()
            raise Interrupted("the rows break off")


def _frame(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def literal(value: Any) -> str:
    """A value as SQL."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"toFloat64('{value!r}')"
        case Decimal():
            digits = f"{value:f}"
            return f"toDecimal128('{digits}', {len(digits.partition('.')[2])})"
        case bytes():
            return f"unhex('{value.hex()}')"
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo is not None else value
            text = moment.replace(tzinfo=None).isoformat(" ", timespec="microseconds")
            zone = ", 'UTC'" if value.tzinfo is not None else ""
            return f"toDateTime64('{text}', 6{zone})"
        case date():
            return f"toDate32('{value.isoformat()}')"
        case time():
            return f"'{value.isoformat()}'"
    return f"unhex('{str(value).encode().hex()}')"
