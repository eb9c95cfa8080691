"""Runs of a workflow as processes that may be killed. They are forked from one that has imported what a run needs, because
a start takes a second else, and a test has many."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

_PRELOADED = (
    "dataflare.cli.app", "dataflare.cli.run", "dataflare.jobs", "dataflare.connectors.postgres.source",
    "dataflare.connectors.postgres.destination", "dataflare.connectors.postgres.cdc.reader",
    "dataflare.connectors.mysql.source", "dataflare.connectors.mysql.destination",
    "dataflare.connectors.mysql.cdc.reader", "dataflare.connectors.sqlite", "dataflare.connectors.duckdb",
    "duckdb", "deltalake", "pyiceberg.catalog.sql", "pyiceberg.table", "pyarrow.parquet",
)  # fmt: skip
_END_S = 90.0


class RunProcess:
    """`dataflare run` with these arguments, in a folder."""

    def __init__(
        self, folder: Path, arguments: list[str], environment: dict[str, str], crash_at: str | None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        self._errors = folder / "errors.txt"
        begun, begins = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run, args=(begins, str(folder), arguments, environment, crash_at), daemon=True
        )
        self._process.start()
        begins.close()
        with contextlib.closing(begun):
            begun.recv()

    @property
    def has_ended(self) -> bool:
        return self._process.exitcode is not None

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)

    def wait(self) -> int:
        """Its status. Raises TimeoutError."""
        self._process.join(_END_S)
        status = self._process.exitcode
        if status is None:
            os.kill(self._process.pid or 0, signal.SIGABRT)
            self._process.join(10)
            raise TimeoutError(f"the run does not end; it wrote:\n{self.errors()}")
        return status

    def errors(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""


def _run(
    begins: Connection,
    folder: str,
    arguments: list[str],
    environment: dict[str, str],
    crash_at: str | None,
) -> None:
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("DATAFLARE")]:
        del os.environ[name]
    os.environ.update(environment)
    errors = os.open("errors.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import faulthandler

    faulthandler.enable(errors)
    if crash_at is not None:
        from dataflare.sdk import crashpoints

        name, _, count = crash_at.partition(":")
        crashpoints._wanted, crashpoints._left = name, int(count or 1)
    try:
        begins.send(True)
        begins.close()
        from dataflare.cli.app import run_process

        sys.exit(run_process(["run", *arguments]))
    except KeyboardInterrupt:
        sys.exit(130)
