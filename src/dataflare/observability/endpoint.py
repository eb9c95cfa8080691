"""`/metrics` for Prometheus, and `/health/live` and `/health/ready`, over HTTP on a thread of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dataflare.errors import SystemError_
from dataflare.observability.view import RunView
from dataflare.sdk.registry import missing_library

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Ask = Callable[[], Sequence[RunView]]
"""The views of the runs of a process. Called on threads of the endpoint. Raises TimeoutError where the process does not
answer."""


def parsed(address: str) -> tuple[str, int]:
    """`127.0.0.1:9464`, `[::1]:9464` or `:9464`, which is loopback. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(address)
    return host.strip("[]") or "127.0.0.1", int(port)


@contextlib.contextmanager
def serving(host: str, port: int, ask: Ask) -> Iterator[int]:
    """Answer until the end of the `with`. Gives the port; 0 takes a free one. Raises SystemError_ (E0607) where the
    address cannot be had, and ConfigError (E0402) where the library is not installed."""
    exposed = _exposition()
    try:
        server = make_server(
            host,
            port,
            _app(ask, exposed),
            server_class=_ServerOfIpv6 if ":" in host else _Server,
            handler_class=_Quiet,
        )
    except OSError as error:
        raise SystemError_(
            f"metrics cannot be served at {host}:{port}: {error.strerror or error}",
            code="E0607",
            help="choose another port for --metrics",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _exposition() -> Callable[[Sequence[RunView]], bytes]:
    try:
        from dataflare.observability.prometheus import exposed
    except ModuleNotFoundError as error:
        raise missing_library("--metrics", error) from error
    return exposed


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that sends half a request, or goes before its answer, says nothing of the run."""


class _ServerOfIpv6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line each."""


def _app(
    ask: Ask, exposed: Callable[[Sequence[RunView]], bytes]
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    def app(environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD")
        if method not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only GET\n"
        else:
            status, kind, body = _answer(path, ask, exposed)
        respond(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

    return app


def _answer(
    path: str, ask: Ask, exposed: Callable[[Sequence[RunView]], bytes]
) -> tuple[str, str, bytes]:
    if path not in ("/metrics", "/health/live", "/health/ready"):
        text = b"see /metrics, /health/live, /health/ready\n"
        return "404 Not Found", "text/plain", text
    try:
        runs = ask()
    except (TimeoutError, RuntimeError):  # RuntimeError: its event loop has ended
        return "503 Service Unavailable", "application/json", b'{"status":"not answering"}\n'
    if path == "/metrics":
        return "200 OK", "text/plain; version=0.0.4; charset=utf-8", exposed(runs)
    states = {run.workflow: run.status for run in runs}
    is_fine = path == "/health/live" or all(state == "running" for state in states.values())
    body = json.dumps({"status": "ok" if is_fine else "not ready", "runs": states}) + "\n"
    status = "200 OK" if is_fine else "503 Service Unavailable"
    return status, "application/json", body.encode()
