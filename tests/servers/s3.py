"""A server that speaks S3 (moto), on a port of this machine, with its content in memory."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

KEYS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester"}


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a new server."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    try:
        yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    finally:
        moto.stop()


def empty(endpoint: str, *buckets: str) -> None:
    """Forget everything, and make these buckets."""
    for method, path in [("POST", "/moto-api/reset"), *(("PUT", f"/{name}") for name in buckets)]:
        urllib.request.urlopen(urllib.request.Request(endpoint + path, method=method)).close()
