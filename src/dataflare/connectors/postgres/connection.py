"""Connections to a server: psycopg for statements, ADBC for columns; both with the same settings.

Always true: a password is only in `Server.conninfo`, which no repr shows. The settings of a session are
set inside each transaction, so that a pooler may give every transaction another session.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dataflare.connectors.postgres.config import PostgresConfig, PostgresDestinationConfig
from dataflare.connectors.postgres.errors import postgres_errors
from dataflare.errors import ConfigError, SystemError_
from dataflare.model.record import Discreet
from dataflare.sdk.registry import missing_library

# A server that has disappeared is noticed within about a minute, also while nothing is sent.
_KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# The text of values is the same for every user and server, and the server does not end DataFlare's
# idle transactions.
_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
}
_VERSION_MIN = 120_000
_BATCH_BYTES = 4 * 2**20


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up when the server does not answer. answer_s: within which time it must; None: it may
    take as long as it does."""

    answer_s: float | None = None

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        if self.answer_s is None:
            return super().wait(gen, *args, **options)
        try:
            return super().wait(gen, *args, **{"timeout": self.answer_s, **options})
        except psycopg.OperationalError as error:
            if "wait timeout expired" not in str(error):
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"connection timeout: the server did not answer within {self.answer_s:g} s"
            ) from error


class Server(Discreet, frozen=True):
    """A database and how long to wait for it. label: host, port and database, for messages. answer_s: how long it may
    be silent after a statement was sent. It ends a statement by itself at `statement_timeout`, so a server that is silent
    for longer hangs."""

    hidden = ("conninfo",)

    conninfo: str
    label: str
    statement_timeout_s: float | None = None
    lock_timeout_s: float | None = None
    answer_s: float | None = None
    connect_s: float = 10.0

    @classmethod
    def of(cls, config: PostgresConfig) -> Server:
        """Raises ConfigError (E0414) if the text is not a connection string, without showing it."""
        try:
            options = conninfo_to_dict(config.connection_string)
        except psycopg.ProgrammingError:
            # libpq quotes a part of the text in its message; it may be a part of the password.
            raise ConfigError(
                "'connection_string' is not one that PostgreSQL understands",
                code="E0414",
                help="write postgresql://user:password@host:5432/database, with special "
                "characters of the password in percent encoding, such as %40",
            ) from None
        timeout = str(max(2, math.ceil(config.connect_timeout)))
        defaults = {**_KEEPALIVE, "connect_timeout": timeout, "client_encoding": "utf8"}
        lock_s = config.lock_timeout if isinstance(config, PostgresDestinationConfig) else None
        return cls(
            make_conninfo("", **{**defaults, **options}),
            _label(options),
            config.statement_timeout,
            lock_s,
            answer_s=config.statement_timeout and config.statement_timeout + config.connect_timeout,
            connect_s=config.connect_timeout,
        )

    def connect(self, name: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit. name: of the application, as the server lists it."""
        with postgres_errors(self.label, "connecting"):
            connection = _Connection.connect(
                self.conninfo, autocommit=True, application_name=name[:63]
            )
        connection.prepare_threshold = None
        # A server, or a proxy before it, may be silent after the login.
        connection.answer_s = max(2.0, self.connect_s)
        with postgres_errors(self.label, "connecting"):
            connection.execute("select 1")
        connection.answer_s = self.answer_s
        if connection.info.server_version < _VERSION_MIN:
            connection.close()
            raise SystemError_(
                f"{self.label} is PostgreSQL {connection.info.server_version // 10_000}, and 12 or newer is "
                "needed",
                code="E0600",
                help="use a newer server",
            )
        return connection

    def settings(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The settings of each transaction."""
        settings = {**_SETTINGS, **(extra or {})}
        if self.statement_timeout_s is not None:
            settings["statement_timeout"] = str(round(self.statement_timeout_s * 1000))
        if self.lock_timeout_s is not None:
            settings["lock_timeout"] = str(round(self.lock_timeout_s * 1000))
        return settings

    def begin(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],
        how: str = "",
        snapshot: str | None = None,
        **extra: str,
    ) -> None:
        """Open a transaction by SQL, with DataFlare's settings. Raises psycopg's errors."""
        connection.execute(f"begin {how}")
        if snapshot is not None:
            connection.execute(f"set transaction snapshot '{snapshot}'")
        settings = self.settings(extra)
        connection.execute(_SET_SQL, (list(settings), list(settings.values())))

    def beginning(self, connection: psycopg.Connection[tuple[Any, ...]]) -> str:
        """The statements that begin a transaction of a writer, with DataFlare's settings; the second one gives the
        process id of the session. Raises psycopg's errors."""
        settings = self.settings()
        known = connection.execute(
            "select lower(name) from pg_settings where lower(name) = any(%s)",
            ([name.lower() for name in settings],),
        ).fetchall()
        names = {name for (name,) in known}
        # Committed rows must survive a crash of the server, for any default of the user.
        durable = "case current_setting('synchronous_commit') when 'off' then set_config('synchronous_commit', 'on', true) end"
        sets = [
            f"set_config('{name}', '{value}', true)"
            for name, value in settings.items()
            if name.lower() in names
        ]
        return f"begin; select pg_backend_pid(), {', '.join([durable, *sets])}"


# Older servers do not have every setting; user-defined settings have a dot.
_SET_SQL = (
    "select set_config(n, v, true) from unnest(%s::text[], %s::text[]) as given(n, v) "
    "where n like '%%.%%' or exists (select from pg_settings where lower(name) = lower(n))"
)


def _label(options: Mapping[str, Any]) -> str:
    import os

    host = options.get("host") or options.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    port = options.get("port") or os.environ.get("PGPORT") or "5432"
    name = options.get("dbname") or os.environ.get("PGDATABASE") or options.get("user") or ""
    return f"{host}:{port}/{name}".rstrip("/")


def load_driver() -> None:
    """Import the modules of `ArrowConnection`; that takes longer than a query to the server."""
    try:
        import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_library("postgres", error) from error


class ArrowConnection:
    """One transaction that is read by columns. Blocking; one thread at a time, except for `abort`.

    Results are read by COPY in binary form, a few megabytes at a time. COPY has no parameters, so
    values are settings of the transaction, which the SQL reads with `current_setting`.
    """

    def __init__(self, server: Server, name: str) -> None:
        load_driver()
        from adbc_driver_postgresql import dbapi

        conninfo = make_conninfo(server.conninfo, application_name=name[:63])
        self._server = server
        with postgres_errors(server.label, "connecting"):
            self._connection = dbapi.connect(conninfo, autocommit=True)
        try:
            self._cursor = self._connection.cursor()
            hint = {"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)}
            self._cursor.adbc_statement.set_options(**hint)
        except BaseException:
            self.close()
            raise

    def begin(self, values: Mapping[str, str], snapshot: str | None) -> None:
        """Begin a read-only transaction that sees the snapshot, or the database as it is now.
        values: bound settings by name. Raises the driver's errors."""
        self._cursor.execute("begin isolation level repeatable read read only")
        if snapshot is not None:
            self._cursor.execute(f"set transaction snapshot '{snapshot}'")
        settings = self._server.settings(values)
        names, texts = list(settings), list(settings.values())
        rows = pl.DataFrame({"n": [names], "v": [texts]})
        sql = _SET_SQL.replace("%%", "%").replace("%s", "$1", 1).replace("%s", "$2", 1)
        self._cursor.execute(sql, rows)
        self._cursor.fetch_arrow()

    def convert(self, sql: str, texts: Sequence[str]) -> pl.DataFrame:
        """The result of a statement whose `$1` is an array of texts. Raises the driver's errors."""
        self._cursor.execute(sql, pl.DataFrame({"v": [list(texts)]}))
        frame = pl.from_arrow(self._cursor.fetch_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return _plain(frame)

    def stream(self, sql: str) -> Iterator[pl.DataFrame]:
        """The result in frames of a few megabytes. Raises the driver's errors."""
        try:
            self._cursor.execute(sql)
            reader = self._cursor.fetch_record_batch()
        except ModuleNotFoundError as error:
            raise missing_library("postgres", error) from error
        try:
            for batch in reader:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield _plain(frame)
        finally:
            reader.close()

    def end(self) -> None:
        """End the transaction, so that another may begin. Raises the driver's errors."""
        self._cursor.execute("commit")

    def abort(self) -> None:
        """Stop the running statement; from any thread. Never raises."""
        try:
            self._cursor.adbc_cancel()
        except Exception:  # nothing runs, or the connection is lost: there is nothing to stop
            pass

    def close(self) -> None:
        """Never raises: a read-only transaction has nothing to commit."""
        self.abort()
        for part in (getattr(self, "_cursor", None), self._connection):
            try:
                if part is not None:
                    part.close()
            except Exception:
                pass


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the driver's extension types (numeric, json) as the text they hold."""
    columns = [
        column.ext.storage() if isinstance(column.dtype, pl.BaseExtension) else column
        for column in frame
    ]
    return pl.DataFrame(columns) if columns else frame
