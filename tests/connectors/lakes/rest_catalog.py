"""A REST catalogue of Iceberg: the calls of its public protocol that a table needs, over a catalogue in a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyiceberg import exceptions
from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import CommitTableRequest
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

_STATUS = {
    exceptions.NoSuchTableError: 404,
    exceptions.NoSuchNamespaceError: 404,
    exceptions.NamespaceAlreadyExistsError: 409,
    exceptions.TableAlreadyExistsError: 409,
    exceptions.CommitFailedException: 409,
}


class _Handler(BaseHTTPRequestHandler):
    catalog: SqlCatalog
    token: str
    lock: threading.Lock

    def _answer(self) -> tuple[int, Any]:
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, _error(401, "NotAuthorizedException", "the token is not valid")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = self.path.partition("?")[0].strip("/").split("/")[1:]
        try:
            with self.lock:
                return self._route(parts, body)
        except tuple(_STATUS) as error:
            status = _STATUS[type(error)]
            return status, _error(status, type(error).__name__, str(error))

    def _route(self, parts: list[str], body: bytes) -> tuple[int, Any]:
        catalog = self.catalog
        match self.command, parts:
            case "GET", ["config"]:
                return 200, {"defaults": {}, "overrides": {}}
            case "POST", ["namespaces"]:
                name = json.loads(body)["namespace"]
                catalog.create_namespace(tuple(name))
                return 200, {"namespace": name, "properties": {}}
            case "GET" | "HEAD", ["namespaces", namespace]:
                return 200, {
                    "namespace": [namespace],
                    "properties": catalog.load_namespace_properties(namespace),
                }
            case "GET", ["namespaces", namespace, "tables"]:
                names = [
                    {"namespace": list(n[:-1]), "name": n[-1]}
                    for n in catalog.list_tables(namespace)
                ]
                return 200, {"identifiers": names}
            case "POST", ["namespaces", namespace, "tables"]:
                asked = CreateTableRequest.model_validate({"location": None, **json.loads(body)})
                made = catalog.create_table(
                    (namespace, asked.name), asked.table_schema, asked.location,
                    asked.partition_spec or UNPARTITIONED_PARTITION_SPEC,
                    asked.write_order or UNSORTED_SORT_ORDER, asked.properties,
                )  # fmt: skip
                return 200, _loaded(made)
            case "GET" | "HEAD", ["namespaces", namespace, "tables", name]:
                return 200, _loaded(catalog.load_table((namespace, name)))
            case "POST", ["namespaces", namespace, "tables", name]:
                change = CommitTableRequest.model_validate_json(body)
                table = catalog.load_table((namespace, name))
                catalog.commit_table(table, change.requirements, change.updates)
                return 200, _loaded(catalog.load_table((namespace, name)))
        return 404, _error(404, "NotFoundException", self.path)

    def _serve(self) -> None:
        status, answer = self._answer()
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_HEAD = _serve  # noqa: N815

    def log_message(self, *args: Any) -> None:
        return


def _loaded(table: Any) -> dict[str, Any]:
    return {
        "metadata-location": table.metadata_location,
        "metadata": json.loads(table.metadata.model_dump_json()),
        "config": {},
    }


def _error(code: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code}}


@contextmanager
def rest_catalog(folder: Path, token: str) -> Iterator[str]:
    """The address of a catalogue that takes this token. Its tables are below the folder."""
    uri = f"sqlite:///{folder / 'rest.db'}"
    catalog = SqlCatalog("rest", uri=uri, warehouse=(folder / "rest").as_uri())
    catalog.engine.dispose()
    catalog.engine = create_engine(uri, poolclass=NullPool)
    handler = type(
        "Handler", (_Handler,), {"catalog": catalog, "token": token, "lock": threading.Lock()}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
