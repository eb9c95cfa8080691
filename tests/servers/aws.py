"""A server that speaks the protocols of Amazon's services (moto), as a process of its own, with its content in memory."""

from __future__ import annotations

import contextlib
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optional_packages import package
from servers.process import ProcessServer, free_port, thrown_away
from servers.s3 import KEYS


class AwsServer(ProcessServer):
    """`endpoint` says how to reach it; any credentials are good, unless `checks_logins`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("moto_process.py")), str(self.port)]

    def answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError):
            self.post("reset")
            return True
        return False

    def post(self, path: str, data: bytes = b"") -> None:
        """Tell moto itself something."""
        url = f"{self.endpoint}/moto-api/{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(request).close()

    @contextlib.contextmanager
    def checks_logins(self) -> Iterator[None]:
        """Each request needs the credentials of a user who has the right."""
        self.post("reset-auth", b"0")
        try:
            yield
        finally:
            self.post("reset-auth", b"inf")

    def client(self, service: str) -> Any:
        """A client of its own for tests."""
        return package("boto3").client(
            service,
            endpoint_url=self.endpoint,
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    @property
    def options(self) -> dict[str, str]:
        """What a connector's config has to reach it."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
            "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
        }


@contextlib.contextmanager
def server() -> Iterator[AwsServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    package("moto.server")
    with thrown_away(AwsServer, "aws") as made:
        yield made
