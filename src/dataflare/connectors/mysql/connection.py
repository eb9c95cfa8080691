"""Connections to a server, all with the same settings.

Always true: a password is only in `Server.password`, which no repr shows; a value is in SQL only as a number
or in hexadecimal, so its text cannot become SQL.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import polars as pl

from dataflare.connectors.mysql.config import MysqlConfig, MysqlDestinationConfig
from dataflare.connectors.mysql.errors import mysql_errors
from dataflare.connectors.mysql.wire import FieldOf, Loaded, WireConnection
from dataflare.errors import SystemError_
from dataflare.model.record import Discreet
from dataflare.sdk.sql.server_urls import UrlForm, keep_alive, unreadable_files

VALUE = ":dataflare_value:"
"""A bound value in SQL."""
STRICT = (
    "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
)
"""The sql_mode of every session: values are refused, not changed."""
ANSI = f"{STRICT},ANSI_QUOTES,PIPES_AS_CONCAT"
"""With names in double quotes."""
_FOREVER_S = 31_536_000
_VERSIONS = {"MariaDB": (10, 4), "MySQL": (8, 0)}
_SSL_MODES = ("disabled", "preferred", "required", "verify_ca", "verify_identity")
_URL = UrlForm(
    "MySQL",
    ("mysql", "mariadb"),
    ("ssl_mode", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket"),
    "it is not a URL with a database",
    "mysql://host:3306/database",
)


class Server(Discreet, frozen=True):
    """A database and how long to wait for it."""

    hidden = ("password",)

    host: str
    port: int
    user: str
    password: str
    database: str
    ssl_mode: str = "preferred"
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    unix_socket: str | None = None
    connect_timeout_s: float = 10.0
    statement_timeout_s: float | None = None
    lock_timeout_s: float | None = None

    @classmethod
    def of(cls, config: MysqlConfig) -> Server:
        """Raises ConfigError (E0414) if the text is not a connection string, without showing it."""
        lock_s = config.lock_timeout if isinstance(config, MysqlDestinationConfig) else None
        parts, options = _URL.read(config.connection_string)
        database = unquote(parts.path.removeprefix("/"))
        if not database:
            raise _URL.refused()
        mode = options.get("ssl_mode", "preferred").lower()
        if mode not in _SSL_MODES:
            raise _URL.refused(f"ssl_mode is one of {', '.join(_SSL_MODES)}")
        return cls(
            host=parts.hostname or "localhost", port=parts.port or 3306, user=unquote(parts.username or ""),
            password=unquote(parts.password or ""), database=database, ssl_mode=mode,
            ssl_ca=options.get("ssl_ca"), ssl_cert=options.get("ssl_cert"),
            ssl_key=options.get("ssl_key"), unix_socket=options.get("unix_socket"),
            connect_timeout_s=config.connect_timeout, statement_timeout_s=config.statement_timeout,
            lock_timeout_s=lock_s,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Socket, or host and port, and database, for messages."""
        return f"{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"

    def connect(self, name: str, *, ansi: bool = False) -> Db:
        """A connection in autocommit. name: of the program, as the server's performance schema lists it.
        ansi: names are in double quotes, not in backticks."""
        with mysql_errors(self.label, "connecting"):
            connection = WireConnection(
                host=self.host, port=self.port, user=self.user, password=self.password.encode(),
                database=self.database, unix_socket=self.unix_socket, charset="utf8mb4",
                connect_timeout=self.connect_timeout_s, autocommit=True, local_infile=True,
                read_timeout=self.statement_timeout_s, write_timeout=self.statement_timeout_s,
                program_name=name[:63], defer_connect=True, **self._tls(),
            )  # fmt: skip
            connection.connect()
        db = Db(connection, self.label)
        try:
            with mysql_errors(self.label, "connecting"):
                connection.forbid_files()
                db.prepare(self, ansi=ansi)
        except BaseException:
            db.close()
            raise
        return db

    def _tls(self) -> dict[str, Any]:
        match self.ssl_mode:
            case "disabled":
                return {"ssl_disabled": True}
            case "preferred" if not (self.ssl_ca or self.ssl_cert):
                return {}
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca)
            # A certificate that MySQL made for itself lacks what the strict flag wants.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.check_hostname = self.ssl_mode == "verify_identity"
            if self.ssl_mode not in ("verify_ca", "verify_identity") and self.ssl_ca is None:
                context.verify_mode = ssl.CERT_NONE
            if self.ssl_cert is not None:
                context.load_cert_chain(self.ssl_cert, self.ssl_key)
        except OSError as error:
            raise unreadable_files(self.label, error, "ssl_ca, ssl_cert and ssl_key") from error
        return {"ssl": context}


class Db:
    """A connection. Blocking; one thread at a time, except for `abort`. Raises pymysql's errors."""

    def __init__(self, connection: WireConnection, label: str) -> None:
        self._connection, self.label = connection, label
        self.id: int = connection.thread_id()
        text = str(connection.get_server_info())
        self.is_mariadb = "MariaDB" in text
        self.product = "MariaDB" if self.is_mariadb else "MySQL"
        self.version = text.removeprefix("5.5.5-").partition("-")[0]
        self.user_mode = ""
        """The sql_mode that the user's statements expect."""

    def prepare(self, server: Server, *, ansi: bool) -> None:
        """Check the version, and make the settings of the session."""
        least = _VERSIONS[self.product]
        parts = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        if parts < least:
            raise SystemError_(
                f"{self.label} is {self.product} {self.version}, and {'.'.join(map(str, least))} or "
                "newer is needed",
                code="E0600",
                help="use a newer server",
            )
        self._keep_alive()
        [(self.user_mode, read_max, write_max)] = self.rows(
            "select @@sql_mode, @@net_read_timeout, @@net_write_timeout"
        )
        settings = {
            "sql_mode": f"'{ANSI if ansi else STRICT}'", "time_zone": "'+00:00'", "sql_notes": "1",
            "max_error_count": "1024", "foreign_key_checks": "1", "unique_checks": "1",
            "sql_auto_is_null": "0", "sql_safe_updates": "0", "sql_big_selects": "1",
            "sql_select_limit": "18446744073709551615", "wait_timeout": str(_FOREVER_S),
            # The reader may be slower than the server: a step downstream is waiting.
            "net_read_timeout": str(max(read_max, _FOREVER_S)),
            "net_write_timeout": str(max(write_max, _FOREVER_S)),
        }  # fmt: skip
        if self.is_mariadb:
            settings |= {
                "idle_transaction_timeout": "0", "idle_write_transaction_timeout": "0",
                "idle_readonly_transaction_timeout": "0",
            }  # fmt: skip
        if server.lock_timeout_s is not None:
            seconds = str(max(1, round(server.lock_timeout_s)))
            settings |= {"lock_wait_timeout": seconds, "innodb_lock_wait_timeout": seconds}
        self.run("set " + ", ".join(f"session {n} = {v}" for n, v in settings.items()))

    def _keep_alive(self) -> None:
        sock = self._connection._sock
        if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
            keep_alive(sock)

    @property
    def wire(self) -> WireConnection:
        return self._connection

    @property
    def is_encrypted(self) -> bool:
        return self._connection.is_secure

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of affected rows."""
        return int(self._connection.query(bound(sql, params)))

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self._connection.query(bound(sql, params))
        return list(self._connection._result.rows or ())

    def load(self, sql: str, data: memoryview) -> Loaded:
        return self._connection.load(sql, data)

    def insert(self, sql: str) -> Loaded:
        """Run an INSERT."""
        rows = int(self._connection.query(sql))
        return Loaded(rows, int(self._connection._result.warning_count))

    def stream(self, sql: str) -> Iterator[pl.DataFrame]:
        return self._connection.stream(sql)

    def described(self, sql: str) -> tuple[FieldOf, ...]:
        return self._connection.described(sql)

    def abort(self) -> None:
        """Break the connection; from any thread. Never raises."""
        self._connection.abort()

    def close(self) -> None:
        """Never raises."""
        self._connection._force_close()


def bound(sql: str, params: Sequence[Any]) -> str:
    """The SQL with a literal in place of each VALUE."""
    pieces = sql.split(VALUE)
    assert len(pieces) == len(params) + 1, sql
    return pieces[0] + "".join(
        literal(value) + piece for value, piece in zip(params, pieces[1:], strict=True)
    )


def literal(value: Any) -> str:
    """A value as SQL, the same in every sql_mode."""
    match value:
        case None:
            return "null"
        case bool():
            return "1" if value else "0"
        case int():
            return str(value)
        case float():
            return f"{value!r}e0" if "e" not in repr(value) else repr(value)
        case Decimal():
            return f"{value:f}"
        case bytes():
            return f"x'{value.hex()}'"
        case datetime():
            if value.tzinfo is not None:
                offset = value.utcoffset() or timedelta()
                value = value.replace(tzinfo=None) - offset
            return literal(value.isoformat(" "))
        case date() | time():
            return literal(value.isoformat())
    return f"_utf8mb4 x'{str(value).encode().hex()}'"
