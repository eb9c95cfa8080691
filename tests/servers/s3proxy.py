"""S3Proxy: a real server of the S3 API over a folder of this machine, with signatures, for tests.

The jars come from Maven. Its keys are those of `servers.s3`; its bucket `lake` is empty.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import fetch
from servers.buckets import Buckets
from servers.choice import installed
from servers.process import ProcessServer, free_port, listens, thrown_away
from servers.s3 import KEYS

VERSION = "2.9.0"
_CONFIG = """\
s3proxy.authorization=aws-v2-or-v4
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.ignore-unknown-headers=true
s3proxy.identity={AWS_ACCESS_KEY_ID}
s3proxy.credential={AWS_SECRET_ACCESS_KEY}
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={folder}/data
"""
_LOG = '<configuration><root level="ERROR"/></configuration>\n'


class S3ProxyServer(ProcessServer):
    def __init__(self, folder: Path, jars: Path) -> None:
        super().__init__(folder)
        self._jars, self.port = jars, free_port()
        (folder / "data" / "lake").mkdir(parents=True)
        (folder / "log.xml").write_text(_LOG)
        config = _CONFIG.format(port=self.port, folder=folder, **KEYS)
        (folder / "s3proxy.conf").write_text(config)

    def command(self) -> list[str]:
        folder = self.folder
        return [
            "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m",
            f"-Dlogback.configurationFile={folder}/log.xml", f"-Djava.io.tmpdir={folder}",
            "-cp", f"{self._jars}/*", "org.gaul.s3proxy.Main", "--properties", f"{folder}/s3proxy.conf",
        ]  # fmt: skip

    def answers(self) -> bool:
        return listens(self.port)

    @property
    def buckets(self) -> Buckets:
        return Buckets("s3", {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"})


def _program() -> Path:
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None and not installed(package):
            pytest.fail(f"no {program} on this machine: install it (apt-get install {package})")
    return fetch.maven("org.gaul", "s3proxy", VERSION)


@contextlib.contextmanager
def server() -> Iterator[Buckets]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    with thrown_away(S3ProxyServer, "s3proxy", _program()) as made:
        yield made.buckets
