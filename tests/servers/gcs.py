"""A strict server of the tests for the XML API of Google Cloud Storage, of which clients use these parts: put, get,
ranges, list, copy, delete, generations as conditions, metadata, multipart uploads. Made from the public reference
of the API, because no server of it can be had that takes writes by XML. In memory; no credentials.

Always true: each write of an object gives it a greater generation; what is not in the reference is answered by 400.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from servers.buckets import Buckets

_META = "x-goog-meta-"


class _Object:
    def __init__(self, data: bytes, meta: dict[str, str], generation: int) -> None:
        self.data, self.meta, self.generation = data, meta, generation
        self.etag = f'"{hashlib.md5(data).hexdigest()}"'


class _Content:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, _Object] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], dict[int, bytes]]] = {}
        self.numbers = itertools.count(1_700_000_000_000_000)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    content: _Content

    def _route(self) -> None:
        url = urlsplit(self.path)
        bucket, _, name = unquote(url.path).lstrip("/").partition("/")
        query = {
            key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if bucket != "lake":
            self._say(404, _error("NoSuchBucket", "The specified bucket does not exist."))
            return
        with self.content.lock:
            method = f"_{self.command.lower()}_{'object' if name else 'bucket'}"
            getattr(self, method, self._unknown)(name, query, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _route  # noqa: N815

    def _unknown(self, name: str, query: dict[str, str], data: bytes) -> None:
        self._say(400, _error("InvalidArgument", f"{self.command} {self.path}"))

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # the client wanted no more of it
                self.wfile.write(body)

    def _meta(self) -> dict[str, str]:
        return {k.lower(): v for k, v in self.headers.items() if k.lower().startswith(_META)}

    def _write(self, name: str, data: bytes, meta: dict[str, str]) -> bool:
        """Whether it was written: the condition held."""
        wanted = self.headers.get("x-goog-if-generation-match")
        found = self.content.objects.get(name)
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            self._say(412, _error("PreconditionFailed", "a condition did not hold"))
            return False
        self.content.objects[name] = _Object(data, meta, next(self.content.numbers))
        return True

    def _get_bucket(self, name: str, query: dict[str, str], data: bytes) -> None:
        if query.get("list-type") != "2":
            self._unknown(name, query, data)
            return
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        names = sorted(n for n in self.content.objects if n.startswith(prefix) and n > after)
        page = names[: int(query.get("max-keys", 1000))]
        rows = "".join(
            f"<Contents><Key>{escape(n)}</Key><Size>{len(o.data)}</Size><ETag>{escape(o.etag)}</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for n in page for o in [self.content.objects[n]]
        )  # fmt: skip
        more = (
            f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
            if len(page) < len(names)
            else ""
        )
        self._say(200, f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode())

    def _get_object(self, name: str, query: dict[str, str], data: bytes) -> None:
        found = self.content.objects.get(name)
        if found is None:
            self._say(404, _error("NoSuchKey", "The specified key does not exist."))
            return
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted.strip('"') != found.etag.strip('"'):
            self._say(412, _error("PreconditionFailed", "another version"))
            return
        headers: dict[str, Any] = {
            "ETag": found.etag, "x-goog-generation": str(found.generation),
            "Last-Modified": formatdate(1_704_067_200, usegmt=True), **found.meta,
        }  # fmt: skip
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        body, status = found.data, 200
        if span is not None:
            first, last = int(span[1]), min(int(span[2] or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        self._say(status, body, Content_Length=str(len(body)), **headers)

    _head_object = _get_object

    def _put_object(self, name: str, query: dict[str, str], data: bytes) -> None:
        if "uploadId" in query:
            self.content.uploads[query["uploadId"]][2][int(query["partNumber"])] = data
            self._say(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')
            return
        meta, source = self._meta(), self.headers.get("x-goog-copy-source")
        if source is not None:
            found = self.content.objects.get(unquote(source).lstrip("/").partition("/")[2])
            if found is None:
                self._say(404, _error("NoSuchKey", "The specified key does not exist."))
                return
            data, meta = found.data, found.meta
        if self._write(name, data, meta):
            self._written(name, "CopyObjectResult" if source is not None else "")

    def _post_object(self, name: str, query: dict[str, str], data: bytes) -> None:
        if "uploads" in query:
            number = str(next(self.content.numbers))
            self.content.uploads[number] = (name, self._meta(), {})
            self._say(200, f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId>"
                           "</InitiateMultipartUploadResult>".encode())  # fmt: skip
        elif "uploadId" in query:
            name, meta, parts = self.content.uploads.pop(query["uploadId"])
            if self._write(name, b"".join(parts[n] for n in sorted(parts)), meta):
                self._written(name, "CompleteMultipartUploadResult")
        else:
            self._unknown(name, query, data)

    def _written(self, name: str, element: str) -> None:
        made = self.content.objects[name]
        body = (
            f"<{element}><ETag>{escape(made.etag)}</ETag></{element}>".encode() if element else b""
        )
        self._say(200, body, ETag=made.etag, **{"x-goog-generation": str(made.generation)})

    def _delete_object(self, name: str, query: dict[str, str], data: bytes) -> None:
        if "uploadId" in query:
            self.content.uploads.pop(query["uploadId"], None)
            self._say(204)
        elif self.content.objects.pop(name, None) is None:
            self._say(404, _error("NoSuchKey", "The specified key does not exist."))
        else:
            self._say(204)

    def log_message(self, format: str, *args: Any) -> None:
        return


def _error(code: str, text: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>".encode()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a new server with the empty bucket `lake`."""
    handler = type("Handler", (_Handler,), {"content": _Content()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def server() -> Iterator[Buckets]:
    with serving() as address, tempfile.TemporaryDirectory(prefix="dataflare-gcs-") as folder:
        account = Path(folder) / "account.json"
        account.write_text(json.dumps({
            "gcs_base_url": address, "disable_oauth": True, "client_email": "", "private_key": "",
            "private_key_id": "",
        }))  # fmt: skip
        yield Buckets("gs", {"GOOGLE_SERVICE_ACCOUNT": str(account)})
