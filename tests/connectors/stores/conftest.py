from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optional_packages import package

sys.path.insert(0, str(Path(__file__).parents[1] / "file"))
from servers.s3 import KEYS, empty, s3_server
from servers.sftp import SftpServer, sftp_server


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    package("moto.server")
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch):
    """An obstore client of an empty bucket `lake`; the environment has the server's address and keys."""
    obstore = package("obstore.store")
    empty(endpoint, "lake")
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return obstore.S3Store("lake", client_options={"allow_http": True})


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[SftpServer]:
    with sftp_server(tmp_path) as made:
        yield made
