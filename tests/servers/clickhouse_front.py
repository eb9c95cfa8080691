"""A small HTTP server that answers as ClickHouse's does, with the engine of chDB behind it.

It has: statements by POST, in the body or as `query` with data in the body; `database` and settings as
parameters; user and password in headers; the error number in a header; answers in chunks; TLS. It has not:
statements side by side (one waits for another), users with fewer rights, compression, sessions, Keeper.

python clickhouse_front.py FOLDER PORT SECURE_PORT CERTIFICATE KEY
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_FORMAT = re.compile(r"\s+format\s+(\w+)\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)\.")
_OWN = ("query", "database", "wait_end_of_query", "user", "password")
_STATUS = {516: 403, 60: 404, 81: 404, 497: 403}
_lock = threading.Lock()
_session: Any = None
_database = "default"


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self._body()
        params = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if not self._may():
            self._answer_error("Code: 516. DB::Exception: Authentication failed: password is incorrect, "
                               "or there is no user with such name. (AUTHENTICATION_FAILED)")  # fmt: skip
            return
        sql, data = (params["query"], body) if "query" in params else (body.decode(), None)
        settings = {name: value for name, value in params.items() if name not in _OWN}
        try:
            with _lock:
                found = run(sql, data, settings, params.get("database", "default"))
        except Exception as error:
            self._answer_error(str(error))
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(found), 65_536):
            part = found[at : at + 65_536]
            self.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _may(self) -> bool:
        given = [self.headers.get(f"X-ClickHouse-{name}", "") for name in ("User", "Key")]
        wanted = [os.environ["FRONT_USER"], os.environ["FRONT_PASSWORD"]]
        return [text.encode("latin-1").decode() for text in given] == wanted

    def _answer_error(self, text: str) -> None:
        match = _CODE.search(text)
        code = int(match[1]) if match else 1002
        body = (text if match else f"Code: {code}. DB::Exception: {text}").encode()
        self.send_response(_STATUS.get(code, 500))
        self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def run(sql: str, data: bytes | None, settings: dict[str, str], database: str) -> bytes:
    sql = sql.strip().rstrip(";")
    global _database
    if database != _database:
        _session.query(f"USE `{database}`")
        _database = database
    match = _FORMAT.search(sql)
    form = match[1] if match else "TabSeparated"
    if match:
        sql = sql[: match.start()]
    extra = ", ".join(f"{n} = '{v.replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'"
                      for n, v in settings.items())  # fmt: skip
    if data is not None:
        with tempfile.NamedTemporaryFile(suffix=".data") as file:
            file.write(data)
            file.flush()
            settings_sql = f" settings {extra}" if extra else ""
            return bytes(
                _session.query(
                    f"{sql} from infile '{file.name}'{settings_sql} format {form}"
                ).bytes()
            )
    if extra and re.match(r"\s*(select|with|insert)", sql, re.IGNORECASE):
        sql += f" settings {extra}"
    return bytes(_session.query(sql, form).bytes())


def main() -> None:
    global _session
    folder, port, secure_port, certificate, key = sys.argv[1:]
    from chdb import session

    _session = session.Session(folder)
    servers = [ThreadingHTTPServer(("127.0.0.1", int(each)), Front) for each in (port, secure_port)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True,
                                            do_handshake_on_connect=False)  # fmt: skip
    for each in servers:
        each.daemon_threads = True
        threading.Thread(target=each.serve_forever, daemon=True).start()
    parent = os.getppid()
    while os.getppid() == parent:
        threading.Event().wait(0.5)


if __name__ == "__main__":
    main()
