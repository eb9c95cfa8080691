"""Files on web servers and SFTP servers are read as the same files on a disk are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest
from file_kit import destination, read
from polars.testing import assert_frame_equal
from servers.ftp import ftp_server
from servers.web import Answer, Asked, http_server

from dataflare.errors import CheckpointError, ConfigError, DataFlareError, SystemError_
from dataflare.model.types import Schema
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, StorageOptions
from dataflare.sdk.stores.store import open_store
from dataflare.testing import FaultProxy

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


@pytest.mark.parametrize("plain", [False, True], ids=["mlsd", "nlst"])
def test_an_ftp_server(tmp_path, plain):
    with ftp_server(plain=plain) as server:
        data = server.root / "data"
        for day in (1, 2):
            (data / f"day={day}").mkdir(parents=True)
            ROWS.write_csv(data / f"day={day}/a b.csv")
            ROWS.write_parquet(data / f"day={day}/a.parquet")
        for pattern in ("data/*/a b.csv", "data/*/a.parquet", "data/day=1/a b.csv"):
            found = read({"path": f"{server.url}/{pattern}", "storage": server.storage}, tmp_path)
            assert_frame_equal(found.frame, read(f"{server.root}/{pattern}", tmp_path).frame)
        store, path = open_store(
            f"{server.url}/data/day=1/a b.csv", StorageOptions(**server.storage)
        )
        info = store.look(path)
        assert store.read(info, 0, 7) == b"id,name"
        assert store.read(info, 10, info.size) == (data / "day=1/a b.csv").read_bytes()[10:]
        assert store.look("data") is None
        assert trouble(server.storage, f"{server.url}/none.csv", tmp_path).code == "E0601"
        wrong = trouble({**server.storage, "password": "wrong"}, f"{server.url}/a.csv", tmp_path)
        assert (wrong.code, "wrong" in wrong.message) == ("E0602", False)
        (data / "day=1/a b.csv").write_text("id,name\n1,a\n")
        with pytest.raises(CheckpointError, match="another program replaced it"):
            store.read(info, 7, 20)
        (data / "day=1/a b.csv").unlink()
        with pytest.raises(CheckpointError, match="it is gone"):
            store.read(info, 7, 20)
        port = server.port
    away = trouble({}, f"ftp://127.0.0.1:{port}/a.csv", tmp_path)
    assert away.code == "E0607"


def test_a_web_server_is_not_written_to(tmp_path):
    made = destination({"path": "https://127.0.0.1/out.csv"}, tmp_path)
    with pytest.raises(ConfigError, match="can only be read") as caught:
        asyncio.run(made.validate(Schema.of({"n": "int64"})))
    assert caught.value.code == "E0406"


def test_ranges_of_ftp_over_connections_that_break(tmp_path):
    with ftp_server() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        (server.root / "a.csv").write_text("n\n1\n2\n")
        store, path = open_store(
            f"ftp://127.0.0.1:{proxy.port}/a.csv", StorageOptions(**server.storage)
        )
        info = store.look(path)
        assert store.read(info, 0, 3) == b"n\n1"
        assert proxy.reset()
        assert store.read(info, 2, 5) == b"1\n2"


def test_an_sftp_server(sftp, tmp_path):
    url, storage = sftp.url, sftp.storage
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
    url, storage = sftp.url, sftp.storage
    assert trouble(storage, f"{url}/none.csv", tmp_path).code == "E0601"
    wrong = trouble({**storage, "password": "wrong"}, f"{url}/none.csv", tmp_path)
    assert (wrong.code, wrong.message.startswith("permission denied")) == ("E0602", True)
    (tmp_path / "empty").write_text("")
    unknown = trouble({**storage, "known_hosts": str(tmp_path / "empty")}, f"{url}/a.csv", tmp_path)
    assert (unknown.code, "host key" in unknown.message) == ("E0602", True)
