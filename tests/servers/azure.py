"""The emulator of Azure Blob (Azurite), on a folder that goes with it, listening on loopback alone."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate

from servers import fetch
from servers.buckets import Buckets
from servers.processes import free_port, process

VERSION = "3.37.0"
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Of the account that every emulator has."""


@contextlib.contextmanager
def server() -> Iterator[Buckets]:
    program = fetch.npm("azurite", VERSION) / "node_modules" / ".bin" / "azurite-blob"
    port = free_port()
    command = [program, "--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost",
               "127.0.0.1", "--blobPort", str(port), "--location", "{folder}"]  # fmt: skip
    with process(command, f"http://127.0.0.1:{port}/"):
        made = Buckets("az", {
            "AZURE_STORAGE_ACCOUNT_NAME": _AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _AZURE_KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{_AZURE_ACCOUNT}",
        })  # fmt: skip
        _create_container(port)
        yield made


def _create_container(port: int) -> None:
    """With a signed request, as the service wants it."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    path = f"/{_AZURE_ACCOUNT}/lake"
    signed = (
        f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{_AZURE_ACCOUNT}{path}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(_AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}?restype=container", method="PUT",
        headers={
            "x-ms-date": date, "x-ms-version": version,
            "Authorization": f"SharedKey {_AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}",
        },
    )  # fmt: skip
    urllib.request.urlopen(request).close()
