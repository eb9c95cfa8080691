"""How much of the log comes behind what was read, and what users are told of it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from binlog_kit import Follower, Plain

from dataflare.cli.app import execute
from dataflare.connectors.mysql.cdc import lag as lags
from dataflare.connectors.mysql.cdc import reader as readers
from dataflare.connectors.mysql.cdc.lag import Lag, lag_of
from dataflare.connectors.mysql.cdc.place import Place
from dataflare.connectors.mysql.connection import Server
from dataflare.sdk import registry

HOUR = 3_600


def test_the_size_is_that_of_the_files_behind_a_place(plain: Plain) -> None:
    plain.execute("create table t (id int primary key, v text)")
    [(file, offset, *_)] = plain.rows("show master status")
    config = registry.source("mysql").Config(connection_string=plain.dsn, table="t")
    db = Server.of(config).connect("lag")
    try:
        assert lag_of(db, Place(file, offset, {}), 0).size == 0
        plain.execute(
            "insert into t values (1, repeat('x', 5000))",
            "flush binary logs",
            "insert into t values (2, repeat('x', 3000))",
        )
        [(now,)] = plain.rows("select unix_timestamp()")
        found = lag_of(db, Place(file, offset, {}), int(now) - HOUR)
        assert 8_000 < found.size < 12_000
        # The file is not written any more, so the server may remove it once its time is over.
        assert HOUR <= found.age_s < HOUR + 60
        [(last, end, *_)] = plain.rows("show master status")
        assert lag_of(db, Place(last, end, {}), int(now) - HOUR).age_s == 0
        assert not lag_of(db, Place("log.999999", 4, {}), 0).is_there
    finally:
        db.close()


def test_users_are_told_of_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Lag(1 << 20, 7 * HOUR, 10 * HOUR).doubt("s") is None
    assert Lag(1 << 20, 9 * HOUR, 0).doubt("s") is None
    near, much = Lag(0, 8 * HOUR, 10 * HOUR).doubt("s"), Lag(21 << 30, 0, 0).doubt("s")
    assert near is not None
    assert "36,000 s, binlog_expire_logs_seconds" in near
    assert much is not None
    assert "more than 20,480 MiB of the log of s" in much


def test_a_run_counts_what_comes_behind(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LAG_S", 0.0)
    monkeypatch.setattr(lags, "_MUCH", 1_000)
    plain.execute("create table t (id int primary key, v text)")

    async def check() -> None:
        follower = Follower(plain, "t", cdc={"snapshot": "never"})
        await follower.read()
        plain.execute("insert into t values (1, repeat('x', 5000))")
        source = follower.source()
        await source.schema()
        [split] = await source.splits(follower.carried)
        plain.execute("insert into t values (2, repeat('x', 9000))")
        reader = await source.open(split, None)
        assert (await reader.read_batch(10)).num_rows == 1
        # The run ends before the second row.
        assert 9_000 < reader.kept_bytes < 12_000
        assert [text for text in reader.warnings if "of the log of" in text]
        await reader.aclose()

    asyncio.run(check())


WORKFLOW = """\
name: shop
settings: {mode: MODE, parallelism: 1, checkpoint: {interval: 20ms}}
sources:
  shop: {type: mysql, config: {connection_string: "DSN", tables: ["*"], cdc: true}}
destinations:
  copy: {type: sqlite, inputs: [shop], config: {path: copy.db, table: "{table}", mode: mirror}}
"""


def test_the_command_shows_where_the_next_run_goes_on(
    plain: Plain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))
    plain.execute("create table t (id int primary key, v text)", "insert into t values (1, 'a')")

    def write(mode: str) -> None:
        text = WORKFLOW.replace("DSN", plain.dsn).replace("MODE", mode)
        (tmp_path / "shop.yaml").write_text(text)

    def status(expected: int = 0) -> Any:
        assert execute(["cdc", "status", "shop.yaml", "--json"]) == expected
        said = json.loads(capsys.readouterr().out)
        assert "logs" in said, said
        [log] = said["logs"]
        return log

    write("batch")
    assert status()["state"] == "not there"
    assert execute(["run", "shop.yaml", "--quiet"]) == 0
    capsys.readouterr()
    plain.execute("insert into t values (2, repeat('x', 5000))")
    log = status()
    assert (log["step"], log["name"], log["state"]) == ("shop", "binlog", "waiting")
    assert 5_000 < log["kept_bytes"] < 8_000
    assert log["tables"] == [f"{plain.name}.t"]
    # Of a run that was stopped, its last checkpoint counts.
    write("auto")
    assert execute(["run", "shop.yaml", "--quiet", "--for", "2s"]) == 0
    capsys.readouterr()
    assert status()["kept_bytes"] < 1_000
    plain.execute("insert into t values (3, 'c')", "flush binary logs", "flush binary logs")
    [(last, *_)] = plain.rows("show master status")
    end = time.monotonic() + 20
    while plain.rows("show binary logs")[0][0] != last:
        assert time.monotonic() < end
        plain.execute(f"purge binary logs to '{last}'")
    assert status(1)["lost"] is True
    assert execute(["cdc", "drop", "shop.yaml"]) == 0
    assert "there is nothing to drop" in capsys.readouterr().out
