"""For sling: `load SOURCE DSN TABLE` or `unload DSN OUT`. Becomes the program that the package carries.

Column types are given, as to the others; rows go by COPY, which is sling's default.
"""

from __future__ import annotations

import json
import os
import sys

from sling_linux_amd64 import SLING_BIN

COLUMNS = {
    "id": "bigint",
    "name": "text",
    "amount": "decimal(10,2)",
    "price": "float",
    "at": "datetime",
    "seen": "timestampz",
    "ok": "bool",
}


def run(replication: dict, dsn: str) -> None:
    environment = {**os.environ, "DATABASE": dsn, "SLING_DISABLE_TELEMETRY": "true"}
    environment["SLING_LOADED_AT_COLUMN"] = "false"
    os.execve(SLING_BIN, ["sling", "run", "-r", json.dumps(replication)], environment)


def load(source: str, dsn: str, table: str) -> None:
    stream = {
        "object": table,
        "mode": "incremental",
        "primary_key": "id",
        "columns": COLUMNS,
    }
    run({"source": "LOCAL", "target": "DATABASE", "streams": {f"file://{source}": stream}}, dsn)


def unload(dsn: str, out: str) -> None:
    stream = {"object": f"file://{out}", "mode": "full-refresh"}
    run({"source": "DATABASE", "target": "LOCAL", "streams": {"public.given": stream}}, dsn)


if __name__ == "__main__":
    {"load": load, "unload": unload}[sys.argv[1]](*sys.argv[2:])
