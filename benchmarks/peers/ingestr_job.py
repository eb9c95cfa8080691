"""For ingestr: `load SOURCE DSN TABLE` or `unload DSN OUT`. Becomes the program beside its Python.

Column types are given, as to the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

COLUMNS = "id:bigint,name:text,amount:decimal(10,2),price:double,at:timestamp_ntz,seen:timestamp,ok:boolean"


def run(*options: str) -> None:
    program = str(Path(sys.executable).with_name("ingestr"))
    fixed = ("--yes", "--progress", "log")
    environment = {**os.environ, "INGESTR_DISABLE_TELEMETRY": "true"}
    os.execve(program, ["ingestr", "ingest", *fixed, *options], environment)


def load(source: str, dsn: str, table: str) -> None:
    run(
        *("--source-uri", f"csv://{source}", "--source-table", "given"),
        *("--dest-uri", dsn, "--dest-table", table),
        *("--incremental-strategy", "merge", "--primary-key", "id", "--columns", COLUMNS),
    )


def unload(dsn: str, out: str) -> None:
    run(
        *("--source-uri", dsn, "--source-table", "public.given"),
        *("--dest-uri", f"csv://{out}", "--dest-table", "given"),
    )


if __name__ == "__main__":
    {"load": load, "unload": unload}[sys.argv[1]](*sys.argv[2:])
