"""A real Apache Pulsar for tests: broker, bookie and metadata in one process, on private loopback ports; killed and started
again on demand.

The jars come from Maven. It listens plainly and with TLS, wants a token, and each listener has a name: a broker tells a
client to stay with the address by which it came, and so a proxy before it is not passed by.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import fetch
from servers.certificates import make_certificate
from servers.choice import installed
from servers.process import GUEST, USER, ProcessServer, free_port, thrown_away

VERSION = "4.0.7"
_SECRET = b"a-key-of-tests-with-32-bytes-or-more"
_CONFIG = """\
clusterName=standalone
brokerServicePort=
webServicePort={web}
bindAddress=127.0.0.1
bindAddresses=plain:pulsar://127.0.0.1:{port},secure:pulsar+ssl://127.0.0.1:{tls_port},inner:pulsar://127.0.0.1:{inner}
advertisedListeners=plain:pulsar://127.0.0.1:{port},secure:pulsar+ssl://localhost:{tls_port},inner:pulsar://127.0.0.1:{inner}
internalListenerName=inner
metadataStoreUrl=
configurationMetadataStoreUrl=
managedLedgerDefaultEnsembleSize=1
managedLedgerDefaultWriteQuorum=1
managedLedgerDefaultAckQuorum=1
loadBalancerEnabled=false
allowLoopback=true
numIOThreads=2
numHttpServerThreads=4
numExecutorThreadPoolSize=2
topicLevelPoliciesEnabled=false
systemTopicEnabled=false
diskUsageThreshold=0.99
diskUsageWarnThreshold=0.98
diskUsageLwmThreshold=0.97
keepAliveIntervalSeconds=2
connectionLivenessCheckTimeoutMillis=500
authenticationEnabled=true
authorizationEnabled=true
authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken
tokenSecretKey=data:;base64,{secret}
superUserRoles={user}
brokerClientAuthenticationPlugin=org.apache.pulsar.client.impl.auth.AuthenticationToken
brokerClientAuthenticationParameters=token:{token}
tlsCertificateFilePath={folder}/server.crt
tlsKeyFilePath={folder}/server.key
"""
_JAVA = (
    "java",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xms128m",
    "-Xmx512m",
    "-XX:MaxDirectMemorySize=256m",
    "-Dio.netty.leakDetectionLevel=disabled",
)
_OPENED = (
    "java.base/java.nio",
    "java.base/jdk.internal.misc",
    "java.base/java.util",
    "java.base/java.lang",
    "java.base/java.util.zip",
    "java.base/java.io",
    "java.base/sun.net",
    "java.base/sun.security.jca",
    "java.base/sun.util.calendar",
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)


class PulsarServer(ProcessServer):
    """`url` says how to reach it, `tls_url` with TLS, `certificate` is for localhost. token: of a user with all rights; guest:
    of one without."""

    def __init__(self, folder: Path, jars: Path) -> None:
        super().__init__(folder)
        self._jars = jars
        self.port, self.tls_port, self._web, self._bookie = (free_port() for _ in range(4))
        self.url, self.tls_url = (
            f"pulsar://127.0.0.1:{self.port}",
            f"pulsar+ssl://localhost:{self.tls_port}",
        )
        self.token, self.guest = _token(USER), _token(GUEST)
        self.certificate = folder / "server.crt"
        make_certificate(self.certificate, folder / "server.key")
        secret = base64.b64encode(_SECRET).decode()
        settings = {
            "port": self.port,
            "tls_port": self.tls_port,
            "inner": free_port(),
            "web": self._web,
        }
        (folder / "standalone.conf").write_text(
            _CONFIG.format(
                **settings, folder=folder, user=USER, token=self.token, secret=secret
            )
        )  # fmt: skip

    def command(self) -> list[str]:
        folder = self.folder
        return [
            *_JAVA, *(f"--add-opens={each}=ALL-UNNAMED" for each in _OPENED),
            f"-Djava.io.tmpdir={folder}", "-cp", f"{self._jars}/*",
            "org.apache.pulsar.PulsarStandaloneStarter", "-c", f"{folder}/standalone.conf",
            "-nss", "-nfw", "-a", "127.0.0.1", "--metadata-dir", f"{folder}/metadata",
            "--bookkeeper-dir", f"{folder}/bookkeeper", "--bookkeeper-port", str(self._bookie),
        ]  # fmt: skip

    def answers(self) -> bool:
        """Whether the namespace of the tests is there: it is made after the ports are open."""
        try:
            return "public/default" in self.ask("GET", "namespaces/public")
        except (OSError, ValueError):
            return False

    def ask(self, method: str, path: str, body: object = None) -> str:
        """What the administration answers. Raises OSError."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._web}/admin/v2/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())


def _token(user: str) -> str:
    """A JSON Web Token for a user."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256"}).encode())
    text = f"{head}.{part(json.dumps({'sub': user}).encode())}"
    return f"{text}.{part(hmac.new(_SECRET, text.encode(), hashlib.sha256).digest())}"


def _program() -> Path:
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None and not installed(package):
            pytest.fail(f"no {program} on this machine: install it (apt-get install {package})")
    return fetch.maven("org.apache.pulsar", "pulsar-broker", VERSION)


@contextlib.contextmanager
def server() -> Iterator[PulsarServer]:
    """A running server, removed afterwards. Raises pytest's own outcomes."""
    with thrown_away(PulsarServer, "pulsar", _program()) as made:
        yield made
