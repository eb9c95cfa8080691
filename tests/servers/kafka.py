"""A real Apache Kafka for tests, of one broker or of several: KRaft mode, each broker a process with its own folder,
killed and started again on demand.

Each broker listens four times on loopback: plainly, plainly behind a `FaultProxy`, with a password (SASL PLAIN and
SCRAM), and with TLS (and a client's certificate, if it shows one). Who logs in with a password needs rights, except
`USER`. The jars come from Maven; the classes that a broker loads at its start are kept beside them in an archive of the
virtual machine, with which a start takes 1 s instead of 3 s.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from servers import fetch
from servers.certificates import make_certificate
from servers.choice import installed

from dataflare.testing import FaultProxy

VERSION = "4.4.0"
USER, PASSWORD = "tester", "s3cret-Pass-w0rd"
GUEST = "guest"
"""May log in, with the same password, and has no rights."""
CLUSTER_ID = "ZGF0YWZsYXJlLXRlc3RzAA"
_START_S = 60.0
_JAVA = (
    "java",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xms128m",
    "-Xmx512m",
    "-Xshare:auto",
)
_LISTENERS = ("PLAIN", "PROXIED", "SASL", "TLS")
_CONFIG = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,PROXIED:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
log.dirs={data}
offsets.topic.num.partitions=1
offsets.topic.replication.factor={copies}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={least}
default.replication.factor={copies}
min.insync.replicas={least}
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.retention.ms=-1
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=200
broker.session.timeout.ms=4000
controller.quorum.fetch.timeout.ms=2000
controller.quorum.election.timeout.ms=500
replica.lag.time.max.ms=3000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{user}
ssl.keystore.type=PEM
ssl.keystore.location={store}
ssl.truststore.type=PEM
ssl.truststore.location={certificate}
ssl.client.auth=requested
ssl.principal.mapping.rules=RULE:^.*$/{user}/
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}" user_{guest}="{password}";
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class Broker:
    """One process. ports: by listener."""

    def __init__(self, cluster: KafkaCluster, node: int) -> None:
        self._cluster, self.node = cluster, node
        self.folder = cluster.folder / f"broker-{node}"
        self.folder.mkdir()
        self.ports = {name: _free_port() for name in (*_LISTENERS, "CONTROLLER")}
        self.proxy = FaultProxy("127.0.0.1", self.ports["PROXIED"], seed=node)
        self.proxy.start()
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Write its settings and its formatted folder."""
        data = self.folder / "data"
        shutil.copytree(_formatted(self.node), data)
        data.chmod(0o755)
        (self.folder / "server.properties").write_text(self._config(data))

    def _config(self, data: Path) -> str:
        cluster = self._cluster
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()]
        shown = {name: self.ports[name] for name in _LISTENERS} | {"PROXIED": self.proxy.port}
        advertised = [f"{name}://127.0.0.1:{port}" for name, port in shown.items()]
        number = len(cluster.brokers)
        return _CONFIG.format(
            node=self.node,
            voters=",".join(
                f"{b.node}@127.0.0.1:{b.ports['CONTROLLER']}" for b in cluster.brokers
            ),
            listeners=",".join(listeners), advertised=",".join(advertised), data=data,
            copies=min(3, number), least=2 if number > 2 else 1, user=USER, guest=GUEST,
            password=PASSWORD, store=cluster.store, certificate=cluster.certificate,
        )  # fmt: skip

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and do not wait until it answers."""
        if self.runs:
            return
        jars = _jars()
        with open(self.folder / "output.txt", "ab") as output:
            self._process = subprocess.Popen(
                [*_JAVA, *_archive(), "-cp", f"{jars}/*", "kafka.Kafka",
                 str(self.folder / "server.properties")],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, as when its machine dies."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """It hangs: it is there, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.kill()
        self.proxy.close()

    def output(self) -> str:
        """The end of what it printed."""
        return (self.folder / "output.txt").read_text(errors="replace")[-4000:]


class KafkaCluster:
    """Brokers that know each other. folder: on this machine, for what belongs to it. certificate: of each broker, and
    good as a client's own too, with `key`."""

    def __init__(self, folder: Path, brokers: int = 1) -> None:
        self.folder = folder
        self.certificate, self.key = folder / "server.crt", folder / "server.key"
        self.store = folder / "server.pem"
        make_certificate(self.certificate, self.key, "DNS:localhost,IP:127.0.0.1")
        self.store.write_text(self.key.read_text() + self.certificate.read_text())
        self.brokers: list[Broker] = []
        for node in range(1, brokers + 1):
            self.brokers.append(Broker(self, node))

    @property
    def bootstrap(self) -> str:
        """How to reach it plainly."""
        return self._bootstrap("PLAIN")

    @property
    def sasl(self) -> str:
        return self._bootstrap("SASL")

    @property
    def tls(self) -> str:
        return self._bootstrap("TLS")

    @property
    def proxied(self) -> str:
        """How to reach it through the proxies of its brokers."""
        return ",".join(f"127.0.0.1:{broker.proxy.port}" for broker in self.brokers)

    def _bootstrap(self, listener: str) -> str:
        return ",".join(f"127.0.0.1:{broker.ports[listener]}" for broker in self.brokers)

    def create(self) -> None:
        for broker in self.brokers:
            broker.create()

    def start(self) -> None:
        """Start the brokers that do not run, and wait until all answer."""
        for broker in self.brokers:
            broker.start()
        end = time.monotonic() + _START_S
        for broker in self.brokers:
            while not self._answers(broker):
                if not broker.runs or time.monotonic() > end:
                    raise RuntimeError(f"broker {broker.node} did not start:\n{broker.output()}")

    def _answers(self, broker: Broker) -> bool:
        """Whether a broker knows of all."""
        from confluent_kafka import KafkaException

        try:
            with socket.create_connection(("127.0.0.1", broker.ports["PLAIN"]), timeout=1):
                known = self.admin(broker.ports["PLAIN"]).list_topics(timeout=1.0).brokers
        except (OSError, KafkaException):
            time.sleep(0.05)
            return False
        return len(known) == len(self.brokers)

    def stop(self) -> None:
        for broker in self.brokers:
            broker.stop()

    def connections(self) -> dict[str, str]:
        """What `make services` prints."""
        return {
            "bootstrap_servers": self.bootstrap,
            "bootstrap_servers, through a proxy": self.proxied,
            f"bootstrap_servers, SASL as {USER}:{PASSWORD}": self.sasl,
            f"bootstrap_servers, TLS with {self.certificate}": self.tls,
        }

    # -- for tests ---------------------------------------------------------------------------------

    def admin(self, port: int | None = None) -> Any:
        """A client for topics and rights. port: of one broker's plain listener."""
        from confluent_kafka.admin import AdminClient

        servers = self.bootstrap if port is None else f"127.0.0.1:{port}"
        return AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        from confluent_kafka.admin import NewTopic

        topic = NewTopic(name, partitions, config=dict(settings or {}))
        admin = self.admin()  # it must live as long as its answers
        for future in admin.create_topics([topic]).values():
            future.result(30)

    def delete_topic(self, name: str) -> None:
        admin = self.admin()
        for future in admin.delete_topics([name]).values():
            future.result(30)

    def leader(self, topic: str, partition: int = 0) -> Broker:
        """The broker that leads a partition now."""
        found = self.admin().list_topics(topic, timeout=10).topics[topic].partitions[partition]
        return next(broker for broker in self.brokers if broker.node == found.leader)


def _jars() -> Path:
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None and not installed(package):
            pytest.fail(f"no {program} on this machine: install it (apt-get install {package})")
    return fetch.maven("org.apache.kafka", "kafka_2.13", VERSION)


def _formatted(node: int) -> Path:
    """The data folder of a new broker with this number."""

    def make(folder: Path) -> None:
        config = folder / "format.properties"
        config.write_text(
            f"process.roles=broker,controller\nnode.id={node}\n"
            f"controller.quorum.voters={node}@127.0.0.1:9093\nlisteners=CONTROLLER://127.0.0.1:9093,"
            "PLAINTEXT://127.0.0.1:9092\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={folder}/data\n"
        )
        fetch.run(*_JAVA, "-cp", f"{_jars()}/*", "kafka.tools.StorageTool", "format",
                  "-t", CLUSTER_ID, "-c", str(config))  # fmt: skip

    return fetch.cached(f"kafka-{VERSION}-formatted-{node}", make) / "data"


def _archive() -> list[str]:
    """The option with which a broker starts from the archive of its classes."""
    archive = fetch.cached(f"kafka-{VERSION}-classes", _make_archive) / "classes.jsa"
    return [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []


def _make_archive(folder: Path) -> None:
    """A broker that starts and ends writes down what it has loaded."""
    formatted, config = _formatted(1), folder / "server.properties"
    ports = [_free_port(), _free_port()]
    shutil.copytree(formatted, folder / "data")
    (folder / "data").chmod(0o755)
    config.write_text(
        f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{ports[0]}\n"
        f"listeners=CONTROLLER://127.0.0.1:{ports[0]},PLAINTEXT://127.0.0.1:{ports[1]}\n"
        f"controller.listener.names=CONTROLLER\nlog.dirs={folder}/data\n"
    )
    process = subprocess.Popen(
        [*_JAVA, f"-XX:ArchiveClassesAtExit={folder}/classes.jsa", "-cp", f"{_jars()}/*",
         "kafka.Kafka", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + _START_S
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", ports[1]), timeout=1).close()
                break
            time.sleep(0.1)
        process.terminate()
        process.wait(_START_S)
    finally:
        process.kill()
        process.wait()
    shutil.rmtree(folder / "data")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(brokers: int = 1) -> Iterator[KafkaCluster]:
    """A running cluster in a new folder, removed afterwards. Raises pytest's own outcomes."""
    _jars()
    folder = Path(tempfile.mkdtemp(prefix="dataflare-kafka-"))
    made = KafkaCluster(folder, brokers)
    atexit.register(made.stop)
    try:
        made.create()
        made.start()
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)
        shutil.rmtree(folder, ignore_errors=True)
