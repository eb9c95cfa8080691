"""A source that follows a log, and the folder of the workflow's state: full, damaged, or in use by another run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mirror_process import RunProcess
from mirror_servers import Side, side_of

_WORKFLOW = """\
name: shop
settings: {{mode: batch, checkpoint: {{interval: 20ms}}}}
sources:
  orders: {{type: {type}, config: {{connection_string: "${{FROM}}", table: orders, cdc: true}}}}
destinations:
  copy: {{type: sqlite, inputs: [orders], config: {{path: copy.db, table: orders, mode: mirror, key: [id]}}}}
"""


class Shop:
    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self.folder = side, folder
        (folder / "shop.yaml").write_text(_WORKFLOW.format(type=side.type))
        side.execute("create table orders (id int primary key, name text)")
        self.add(1, 500)

    def add(self, first: int, last: int) -> None:
        values = ", ".join(f"({n}, 'name {n}')" for n in range(first, last + 1))
        self.side.execute(f"insert into orders values {values}")

    def start(self, *options: str) -> RunProcess:
        environment = {"FROM": self.side.dsn(self.side.server.port)}
        return RunProcess(self.folder, ["shop.yaml", "--quiet", *options], environment, None)

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        return process.wait(), process.errors()

    def manifests(self) -> list[Path]:
        return sorted((self.folder / ".dataflare").rglob("manifest-*.json"))

    def is_equal(self) -> bool:
        with sqlite3.connect(self.folder / "copy.db") as db:
            copied = db.execute("select id, name from orders order by id").fetchall()
        return copied == list(self.side.rows("select id, name from orders order by id"))


@pytest.fixture(params=["postgres", "mysql"])
def shop(
    request: pytest.FixtureRequest, servers_to_kill: dict[str, Any], tmp_path: Path
) -> Iterator[Shop]:
    with side_of(request.param, servers_to_kill) as side:
        yield Shop(side, tmp_path)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A folder on a disk of 256 kB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)


def test_a_full_disk_of_the_state_loses_nothing(shop: Shop) -> None:
    with small_disk(shop.folder / ".dataflare"):
        assert shop.run() == (0, "")
        filler = shop.folder / ".dataflare" / "filler"
        with pytest.raises(OSError, match="space"):
            fill(filler)
        shop.add(501, 2_000)
        status, errors = shop.run()
        assert status == 1
        assert "E0603" in errors
        filler.unlink()
        shop.side.execute("delete from orders where id < 100")
        assert shop.run() == (0, "")
        assert shop.is_equal()


def test_a_damaged_state_is_told_and_nothing_is_lost_in_silence(shop: Shop) -> None:
    assert shop.run() == (0, "")
    shop.add(501, 600)
    manifests = sorted((shop.folder / ".dataflare").rglob("current.json"))
    assert manifests
    for path in manifests:
        path.write_bytes(path.read_bytes()[:-20])
    status, errors = shop.run()
    assert status != 0
    assert "E07" in errors


def test_a_damaged_checkpoint_is_not_gone_on_from(shop: Shop) -> None:
    assert shop.run() == (0, "")
    process = shop.start("--set", "settings.mode=streaming")
    first = 501
    while len(shop.manifests()) < 2:
        assert not process.has_ended, process.errors()
        shop.add(first, first)
        first += 1
    process.kill()
    newest = shop.manifests()[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    shop.side.execute("delete from orders where id < 100")
    status, errors = shop.run()
    # The one before it may be gone on from, unless the server has removed the log behind it.
    assert shop.is_equal() if status == 0 else "E0" in errors


def test_a_second_run_at_once_is_refused(shop: Shop) -> None:
    first = shop.start("--set", "settings.mode=streaming")
    try:
        while not (shop.folder / "copy.db").exists():
            assert not first.has_ended, first.errors()
        status, errors = shop.run()
        assert status != 0
        assert "E0801" in errors
    finally:
        first.kill()
    shop.add(501, 600)
    assert shop.run() == (0, "")
    assert shop.is_equal()
