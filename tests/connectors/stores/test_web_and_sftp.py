"""Files on web servers and SFTP servers are read as the same files on a disk are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from file_kit import read
from optional_packages import package
from polars.testing import assert_frame_equal
from servers.web import Answer, Asked, http_server

from dataflare.errors import CheckpointError, ConfigError, DataFlareError, SystemError_
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, StorageOptions
from dataflare.sdk.stores.store import open_store

ROWS = pl.DataFrame({"id": range(40_000), "name": [f"row {n}" for n in range(40_000)]})


class Site:
    """A web server with files of a folder. ranges: whether it answers them."""

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        self.folder, self.ranges, self.version = folder, ranges, 1
        self.sent = 0

    def answer(self, asked: Asked) -> Answer:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        if asked.path == "/private.csv" and headers.get("authorization") != "Bearer abc":
            return Answer(b"", 401)
        file = self.folder / asked.path.lstrip("/")
        if not file.is_file():
            return Answer(b"", 404)
        data, etag = file.read_bytes(), f'"{self.version}"'
        if headers.get("if-match", etag) != etag:
            return Answer(b"", 412)
        if not self.ranges or "range" not in headers:
            self.sent += len(data)
            return Answer(data, 200, {"ETag": etag})
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(data))
        if start >= len(data):
            return Answer(b"", 416, {"ETag": etag})
        self.sent += end - start
        total = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}", "ETag": etag}
        return Answer(data[start:end], 206, total)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_web_server(tmp_path, extension, ranges):
    file = tmp_path / f"a.{extension}"
    getattr(ROWS, f"write_{extension}")(file)
    site = Site(tmp_path, ranges=ranges)
    with http_server(site.answer) as server:
        assert_frame_equal(read(f"{server.url}/a.{extension}", tmp_path).frame, ROWS)
        with pytest.raises(SystemError_, match="no such file") as caught:
            read(f"{server.url}/b.{extension}", tmp_path)
        assert caught.value.code == "E0601"


def test_a_file_on_a_web_server_is_replaced(tmp_path):
    ROWS.write_csv(tmp_path / "a.csv")
    site = Site(tmp_path)
    with http_server(site.answer) as server:
        store, path = open_store(f"{server.url}/a.csv", FROM_ENVIRONMENT)
        info = store.look(path)
        assert store.read(info, 5, 20) == (tmp_path / "a.csv").read_bytes()[5:20]
        site.version = 2
        with pytest.raises(CheckpointError, match="another program replaced it"):
            store.read(info, 20, 40)


def test_a_web_server_wants_headers(tmp_path):
    (tmp_path / "private.csv").write_text("n\n1\n")
    with http_server(Site(tmp_path).answer) as server:
        url = f"{server.url}/private.csv"
        with pytest.raises(SystemError_, match="permission denied"):
            read(url, tmp_path)
        storage = {"headers": {"Authorization": "Bearer abc"}}
        assert read({"path": url, "storage": storage}, tmp_path).frame["n"].to_list() == [1]


def test_a_password_in_a_url_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds a password"):
        read("sftp://me:secret@example.test/a.csv", tmp_path)


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a real server of SFTP whose root is a folder, and the storage options for it."""
    asyncssh = package("asyncssh")
    root = tmp_path / "root"
    root.mkdir()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == ("me", "right")

    key = asyncssh.generate_private_key("ssh-ed25519")

    async def serve():
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[key],
            server_factory=Login,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(root)),
        )

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(20)
    port = server.sockets[0].getsockname()[1]
    hosts = tmp_path / "known_hosts"
    hosts.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    yield f"sftp://127.0.0.1:{port}", {"user": "me", "password": "right", "known_hosts": str(hosts)}
    loop.call_soon_threadsafe(server.close)


def test_an_sftp_server(sftp, tmp_path):
    url, storage = sftp
    data = tmp_path / "root/data"
    for day in (1, 2):
        (data / f"day={day}").mkdir(parents=True)
        ROWS.write_csv(data / f"day={day}/a.csv")
        ROWS.write_parquet(data / f"day={day}/a.parquet")
    for pattern in ("data/*/a.csv", "data/*/a.parquet", "data/day=1/a.csv"):
        there = read({"path": f"{url}/{pattern}", "storage": storage}, tmp_path).frame
        assert_frame_equal(there, read(f"root/{pattern}", tmp_path).frame)
    store, path = open_store(f"{url}/data/day=1/a.csv", StorageOptions(**storage))
    info = store.look(path)
    assert store.read(info, 0, 7) == b"id,name"
    (data / "day=1/a.csv").write_text("id,name\n1,a\n")
    with pytest.raises(CheckpointError, match="another program replaced it"):
        store.read(info, 7, 20)


def trouble(storage: dict[str, str], url: str, base: Path) -> DataFlareError:
    with pytest.raises(DataFlareError) as caught:
        read({"path": url, "storage": storage}, base)
    return caught.value


def test_each_trouble_of_sftp_has_its_error(sftp, tmp_path):
    url, storage = sftp
    assert trouble(storage, f"{url}/none.csv", tmp_path).code == "E0601"
    wrong = trouble({**storage, "password": "wrong"}, f"{url}/none.csv", tmp_path)
    assert (wrong.code, wrong.message.startswith("permission denied")) == ("E0602", True)
    (tmp_path / "empty").write_text("")
    unknown = trouble({**storage, "known_hosts": str(tmp_path / "empty")}, f"{url}/a.csv", tmp_path)
    assert (unknown.code, "host key" in unknown.message) == ("E0602", True)
