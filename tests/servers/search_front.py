"""A relay before a search server, for tests: it speaks TLS and checks passwords, as the security plug-ins of
OpenSearch and Elasticsearch do, and can have Elasticsearch's requests for points in time in place of OpenSearch's.

`USER` may do all, `GUEST` may only read; both have the same password.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, GUEST, PASSWORD = "tester", "guest", "s3cret-Pass/w0rd"
_READS = re.compile(r"/|.*/(_search|_mapping|_settings|_pit|point_in_time)|/_pit")
_REFUSED = "no permissions for [indices:data/write/bulk] and User [name=guest]"


class Front:
    """url: with the user and the password. asked: method and path of each request."""

    def __init__(self, scheme: str, port: int) -> None:
        self.address = f"{scheme}://localhost:{port}"
        self.asked: list[tuple[str, str]] = []

    def url(self, user: str = USER, password: str = PASSWORD) -> str:
        scheme, _, place = self.address.partition("://")
        return f"{scheme}://{user}:{password.replace('/', '%2F')}@{place}"


@contextmanager
def front(
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    as_elasticsearch: bool = False,
) -> Iterator[Front]:
    """Relay to a server on a loopback port. certificate, key: with them it speaks TLS. client_ca: with it clients
    have to show a certificate that it signed. as_elasticsearch: it seems to be one of those."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            made.asked.append((self.command, self.path))
            status, data = self._refusal() or self._relayed(body)
            self.send_response(status)
            if as_elasticsearch:
                self.send_header("X-elastic-product", "Elasticsearch")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refusal(self) -> tuple[int, bytes] | None:
            """What a request gets that its user may not make."""
            names = {_basic(name): name for name in (USER, GUEST)}
            user = names.get(self.headers.get("authorization", ""))
            path = self.path.partition("?")[0]
            if user is None:
                return 401, b"Unauthorized"
            if user == GUEST and not _READS.fullmatch(path):
                error = {"type": "security_exception", "reason": _REFUSED}
                return 403, json.dumps({"error": {"root_cause": [error], **error}}).encode()
            if as_elasticsearch and "point_in_time" in path:
                return 405, b'{"error": "Incorrect HTTP method for uri"}'
            return None

        def _relayed(self, body: bytes) -> tuple[int, bytes]:
            path, _, params = self.path.partition("?")
            is_point = as_elasticsearch and path.endswith("/_pit")
            if is_point:
                path = path.removesuffix("_pit") + "_search/point_in_time"
                if self.command == "DELETE":
                    body = json.dumps({"pit_id": [json.loads(body)["id"]]}).encode()
            kind = {"Content-Type": self.headers.get("content-type", "application/json")}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                target = f"{path}?{params}" if params else path
                connection.request(self.command, target, body or None, kind if body else {})
                answer = connection.getresponse()
                status, data = answer.status, answer.read()
            finally:
                connection.close()
            if is_point and self.command == "POST" and status == 200:
                data = json.dumps({"id": json.loads(data)["pit_id"]}).encode()
            if as_elasticsearch and path == "/" and status == 200:
                data = b'{"version": {"number": "8.15.0", "build_flavor": "default"}, "tagline": "You Know, for Search"}'
            return status, data

        def log_message(self, format: str, *args: object) -> None:
            return

    for method in ("GET", "POST", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._any)
    server = _QuietServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        # The handshake is made by the thread of its connection, not by the one that accepts.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    made = Front("https" if certificate is not None else "http", server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that do not trust the certificate end their connections."""


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
