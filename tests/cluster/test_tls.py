"""TLS between a job and its workers: the same result, nothing to read on the wire, and who is refused for what."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from link_kit import TOKEN, run, serving
from outcomes import content, outcome
from ray_cluster import ray_cluster
from worker_processes import Address, WorkerProcesses

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.certificates import Authority

from dataflare.checkpoint.shared_places import FolderPlace
from dataflare.cluster.leases import Leases
from dataflare.cluster.link import Link
from dataflare.cluster.looking import look_at
from dataflare.cluster.place import Place
from dataflare.cluster.tls import Tls
from dataflare.errors import ConfigError, RunError
from dataflare.workflow import load
from dataflare.workflow.load import load_text
from dataflare.workflow.settings import Cluster

NEEDLE = b"needle-in-a-row"
FILE = """
name: counted
sources: {events: {type: file, config: {path: "in/*.csv"}}}
transformations:
  sums: {type: aggregate, inputs: [events], config: {group_by: [name], measures: {n: "count(*)", total: "sum(v)"}}}
destinations: {out: {type: file, inputs: [sums], config: {path: out/}}}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"))


def files(authority: Authority, name: str = "node", ca: Authority | None = None, **more: int) -> Tls:  # fmt: skip
    certificate, key = authority.sign(name, **more)
    return Tls(str(certificate), str(key), str((ca or authority).certificate))


def written(folder: Path) -> Path:
    (folder / "in").mkdir(parents=True)
    for part in range(4):
        rows = [
            f"needle-in-a-row-{n % 50},{n * 7 % 1000}"
            for n in range(part * 5_000, (part + 1) * 5_000)
        ]
        (folder / "in" / f"{part}.csv").write_text("\n".join(["name,v", *rows, ""]))
    (folder / "w.yaml").write_text(FILE)
    return folder


class Tapped(WorkerProcesses):
    """Workers that are reached through a proxy, which keeps what goes through it."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.seen: list[bytes] = []
        self._proxies: dict[Address, socket.socket] = {}

    async def ready(self) -> Sequence[Address]:
        return [self._proxy(address) for address in await super().ready()]

    def _proxy(self, address: Address) -> Address:
        if address not in self._proxies:
            listener = self._proxies[address] = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=self._accept, args=(listener, address), daemon=True).start()
        host, port = self._proxies[address].getsockname()
        return host, port

    def _accept(self, listener: socket.socket, address: Address) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # it is closed
                return
            far = socket.create_connection(address)
            for ways in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=ways, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        whole = bytearray()
        try:
            while data := source.recv(1 << 16):
                whole += data
                target.sendall(data)
        except OSError:
            pass  # one side is gone, and the other is told below
        self.seen.append(bytes(whole))
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it was closed by the other way

    def close(self) -> None:
        super().close()
        for listener in self._proxies.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@contextmanager
def started(workers: WorkerProcesses) -> Iterator[WorkerProcesses]:
    try:
        yield workers
    finally:
        workers.close()


def test_the_result_is_the_same_and_no_row_can_be_read_on_the_wire(
    tmp_path: Path, authority: Authority
) -> None:
    found, read = {}, {}
    for name in ("one", "plain", "tls"):
        folder = written(tmp_path / name)
        workers = Tapped(2)
        workers.tls = files(authority) if name == "tls" else None
        with started(workers):
            found[name] = outcome(
                load(folder / "w.yaml"), folder, workers if name != "one" else None
            )
        read[name] = [NEEDLE in each for each in workers.seen]
        assert sum(map(len, workers.seen)) > 1_000 or name == "one"
    assert found["one"]["status"] == ("finished", None)
    assert len(next(iter(found["one"]["files"].values()))) == 50
    assert found["plain"] == found["one"]
    assert found["tls"] == found["one"]
    assert any(read["plain"]), "the proxy reads rows where they can be read"
    assert not any(read["tls"])


def test_a_worker_that_dies_is_replaced_by_one_with_tls(
    tmp_path: Path, authority: Authority
) -> None:
    folder = written(tmp_path / "f")
    with started(WorkerProcesses(2)) as workers:
        workers.tls = files(authority)
        asyncio.run(workers.ready())
        process = workers.processes[1]
        assert process is not None
        process.kill()
        process.wait()
        done = outcome(load(folder / "w.yaml"), folder, workers)
        assert done["status"] == ("finished", None)
        assert workers.starts == 3


# --- who is refused -------------------------------------------------------------------------------


def reason(server: Tls | None, client: Tls | None) -> tuple[str, str]:
    """The code and the message of one who connects."""

    async def scenario() -> tuple[str, str]:
        accepts = server.server() if server is not None else None
        connects = client.client() if client is not None else None
        async with serving(tls=accepts) as (_, address, links):
            with pytest.raises((ConfigError, RunError)) as caught:
                await Link.connect(address, TOKEN, "writer", tls=connects)
            assert links.empty()
            assert caught.value.help
            return caught.value.code, caught.value.message

    return run(scenario)


def test_a_worker_of_another_authority_is_refused(authority: Authority, other: Authority) -> None:
    code, message = reason(files(other), files(authority))
    assert code == "E0439"
    assert "the certificate of 127.0.0.1:" in message
    assert "is not signed by an authority of the file of settings.cluster.tls.ca" in message


def test_a_job_of_another_authority_is_refused(authority: Authority, other: Authority) -> None:
    both = authority.folder / "both.pem"
    both.write_text(authority.certificate.read_text() + other.certificate.read_text())
    client = files(other)
    code, message = reason(files(authority), Tls(client.cert, client.key, str(both)))
    assert code == "E0439"
    assert "this process" in message


def test_one_side_without_tls_is_refused(authority: Authority) -> None:
    code, message = reason(None, files(authority))
    assert (code, "answers without TLS" in message) == ("E0439", True)
    code, message = reason(files(authority), None)
    assert (code, "takes TLS only" in message) == ("E0831", True)


def test_a_look_finds_a_worker_of_another_authority_before_a_run(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    with started(WorkerProcesses(2)) as workers:
        workers.tls = files(other)
        asyncio.run(workers.ready())
        workers.tls = files(authority)
        with pytest.raises(ConfigError, match="is not signed by an authority") as caught:
            asyncio.run(look_at(workers, FolderPlace(tmp_path / "state")))
        assert caught.value.code == "E0439"
        folder = written(tmp_path / "f")
        status, error = outcome(load(folder / "w.yaml"), folder, workers)["status"]
        assert (status, error.code) == ("failed", "E0439")
        assert not (folder / "out").exists() or not [*(folder / "out").glob("part-*")]


def test_names_are_not_compared_and_purposes_are(authority: Authority) -> None:
    for purposes in ("", "extendedKeyUsage=serverAuth,clientAuth", "subjectAltName=DNS:elsewhere"):
        certificate, key = authority.sign("purposes", extensions=purposes)
        Tls(str(certificate), str(key), str(authority.certificate)).client()
    certificate, key = authority.sign("purposes", extensions="extendedKeyUsage=serverAuth")
    with pytest.raises(ConfigError, match="purpose"):
        Tls(str(certificate), str(key), str(authority.certificate)).client()


# --- files that others would refuse ---------------------------------------------------------------


def refusal(tls: Tls) -> str:
    texts = set()
    for context in (tls.server, tls.client):
        with pytest.raises(ConfigError) as caught:
            context()
        error = caught.value
        assert error.code == "E0439"
        assert error.help
        texts.add(error.message)
    (text,) = texts
    return text


def test_files_that_are_wrong_are_named(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    good = files(authority)
    expired = files(authority, "expired", days=-1)
    assert refusal(expired) == f"the certificate in {expired.cert} has expired"
    foreign = files(other, ca=authority)
    assert f"is not signed by an authority of {authority.certificate}" in refusal(foreign)
    for name in ("cert", "key", "ca"):
        paths = {"cert": good.cert, "key": good.key, "ca": good.ca, name: "/not/there.pem"}
        text = refusal(Tls(**paths))
        assert text == (
            f"the file of settings.cluster.tls.{name} cannot be read: /not/there.pem: No such file or directory"
        )
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate\n")
    assert "no certificate in PEM" in refusal(Tls(str(empty), good.key, good.ca))
    assert "no certificate in PEM" in refusal(Tls(good.cert, good.key, str(empty)))
    assert "or" in refusal(Tls(good.cert, str(empty), good.ca))
    second = files(authority, "second")
    assert "is not that of the certificate" in refusal(Tls(good.cert, second.key, good.ca))


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(
    tmp_path: Path, authority: Authority
) -> None:
    good = files(authority)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", good.key, "-aes256", "-passout", "pass:word", "-out", locked],
        check=True,
        capture_output=True,
    )
    assert "has a passphrase" in refusal(Tls(good.cert, str(locked), good.ca))


# --- who gets which worker ------------------------------------------------------------------------


class Room:
    """A placer with room for all. refuses: the error of a node."""

    refuses: ConfigError | None = None

    async def place(self, name: str, place: Place) -> tuple[Address, str]:
        if self.refuses is not None:
            raise self.refuses
        return ("host", 1), "node"

    def end(self, name: str) -> None: ...

    async def answers(self, name: str) -> bool:
        return True

    async def free_cpu(self) -> float:
        return 9.0


def test_a_worker_serves_jobs_with_the_same_files_only() -> None:
    async def scenario() -> None:
        leases = Leases(Room())
        plain, tls = Place("auto", 1), Place("auto", 1, tls=Tls("c", "k", "a"))
        names = {}
        for job, place in {"a": plain, "b": tls, "c": plain, "d": tls}.items():
            (seat,) = await leases.seats(job, place)
            names[job] = seat.worker
            leases.ended(job)
        assert names["a"] != names["b"]
        assert (names["c"], names["d"]) == (names["a"], names["b"])

    asyncio.run(scenario())


def test_a_node_without_the_files_refuses_the_job_with_its_own_error() -> None:
    async def scenario() -> None:
        room = Room()
        room.refuses = ConfigError("the key cannot be read", code="E0439")
        with pytest.raises(ConfigError, match="the key cannot be read") as caught:
            await Leases(room).seats("a", Place("auto"))
        assert caught.value.code == "E0439"

    asyncio.run(scenario())


def test_relative_paths_begin_at_the_folder_of_the_workflow(tmp_path: Path) -> None:
    settings = Cluster.model_validate({"tls": {"cert": "tls/c.pem", "key": "/k.pem", "ca": "a"}})
    for where in ("auto", "local:2"):
        tls = Place.of(where, settings, tmp_path).tls
        assert tls == Tls(str(tmp_path / "tls" / "c.pem"), "/k.pem", str(tmp_path / "a"))
    assert Place.of("local:2", Cluster(), tmp_path).tls is None


def test_all_three_files_are_given(tmp_path: Path) -> None:
    text = FILE + "settings: {cluster: {tls: {cert: a, key: b}}}\n"
    with pytest.raises(Exception, match="ca"):
        load_text(text, file="w.yaml", base=tmp_path)


# --- on Ray ---------------------------------------------------------------------------------------


def with_tls(tls: Tls) -> str:
    return f"{FILE}settings: {{cluster: {{workers: 2, tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}}}}}}}\n"


def command(
    folder: Path, *words: str, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", *words], cwd=folder, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_local_cluster_with_tls_and_one_with_an_expired_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    folder = written(tmp_path / "f")
    tls, expired = files(authority), files(authority, "expired", days=-1)
    wanted = outcome(load(folder / "w.yaml"), folder, None)["files"]
    for part in (folder / "out").iterdir():
        part.unlink()
    for each in (expired, tls):
        (folder / "w.yaml").write_text(with_tls(each))
        answers = [
            command(folder, *words, "w.yaml", "--cluster", "local:2", "--json")
            for words in (("check",), ("run", "--fresh"))
        ]
        if each is expired:
            assert [status for status, *_ in answers] == [2, 2], answers
            for _, stdout, _ in answers:
                assert f"the certificate in {each.cert} has expired" in stdout
                assert "Traceback" not in stdout
                assert "PRIVATE" not in stdout
        else:
            assert [status for status, *_ in answers] == [0, 0], answers
            assert json.loads(answers[1][1])["status"] == "finished"
    rows = [row for part in (folder / "out").glob("part-*") for row in content(part)]
    assert sorted(rows) == sorted(row for each in wanted.values() for row in each)
    assert len(rows) == 50


def test_workers_of_a_cluster_take_the_files_of_the_job_and_say_which_one_is_wrong(
    tmp_path: Path, authority: Authority
) -> None:
    folder = written(tmp_path / "f")
    good = files(authority)
    told = []
    with ray_cluster(2) as cluster:
        lost = Tls(good.cert, "/not/there.key", good.ca)
        for tls in (good, lost):
            generated = "{rows: 2000, seed: 1, columns: {name: {int: [0, 9]}, v: {int: [0, 99]}}}"
            text = with_tls(tls).replace(
                'type: file, config: {path: "in/*.csv"}', f"type: generate, config: {generated}"
            )
            (folder / "w.yaml").write_text(text)
            for words in (("check",), ("run", "--fresh")):
                words = (*words, "w.yaml", "--cluster", "auto", "--json")
                told.append(command(folder, *words, environment=cluster.environment))
    assert [status for status, *_ in told] == [0, 0, 2, 2], told
    for _, stdout, _ in told[2:]:
        assert "the file of settings.cluster.tls.key cannot be read: /not/there.key" in stdout
        assert "E0439" in stdout
