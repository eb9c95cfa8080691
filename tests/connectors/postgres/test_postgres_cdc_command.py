"""`dataflare cdc status | drop`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_kit import Copy
from postgres_kit import Database

from dataflare.cli.app import execute


@pytest.fixture
def shop(logical: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    logical.execute("create table orders (id int primary key)", "insert into orders values (1)")
    copy = Copy(logical, tmp_path)
    (tmp_path / "shop.yaml").write_text(copy.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))
    return copy


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert execute(["cdc", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_slot_is_shown_and_dropped(shop: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    [log] = said(capsys, "status", "shop.yaml")["logs"]
    assert (log["step"], log["state"], log["position"]) == ("orders", "not there", None)
    assert said(capsys, "drop", "shop.yaml")["dropped"] == {"orders": []}
    shop.catch_up()
    [log] = said(capsys, "status", "shop.yaml")["logs"]
    [(name, position)] = shop.database.rows(
        "select slot_name, confirmed_flush_lsn::text from pg_replication_slots"
    )
    assert (log["name"], log["state"], log["position"]) == (name, "waiting", position)
    assert log["kept_bytes"] > 0
    dropped = said(capsys, "drop", "shop.yaml", "orders")["dropped"]
    assert dropped == {"orders": [f"slot {name}", f"publication {name}"]}
    assert shop.database.rows("select * from pg_replication_slots") == []
    assert shop.database.rows("select * from pg_publication") == []
    # The next run needs what was in it.
    [log] = said(capsys, "status", "shop.yaml", status=1)["logs"]
    assert (log["state"], log["lost"]) == ("gone", True)
    # Made anew, it lacks the changes in between.
    shop.database.execute(
        "insert into orders values (5)",
        f"select pg_create_logical_replication_slot('{name}', 'pgoutput')",
    )
    assert said(capsys, "status", "shop.yaml", status=1)["logs"][0]["lost"]


def test_a_slot_in_use_is_kept(shop: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    shop.catch_up()
    [(name,)] = shop.database.rows("select slot_name from pg_replication_slots")
    low = psycopg.connect(f"{shop.database.dsn}?replication=database", autocommit=True).pgconn
    low.exec_(
        f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{name}')".encode()
    )
    [log] = said(capsys, "status", "shop.yaml")["logs"]
    assert log["state"] == "active"
    assert said(capsys, "drop", "shop.yaml", status=1)["error"]["code"] == "E0605"
    low.finish()
    assert [(name,)] == shop.database.rows("select slot_name from pg_replication_slots")


def test_a_log_that_grows_is_counted_and_told(
    shop: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    result = shop.catch_up()
    assert 0 < result.steps["orders"]["kept_bytes"] < 8_000_000
    assert not any("of its log" in each for each in result.warnings)
    database = shop.database
    database.execute(
        "alter system set max_slot_wal_keep_size = '20MB'", "select pg_reload_conf()",
        "select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 17)",
        "insert into orders values (2)",
    )  # fmt: skip
    try:
        result = shop.catch_up()
        [log] = said(capsys, "status", "shop.yaml")["logs"]
    finally:
        database.execute("alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
    assert result.steps["orders"]["kept_bytes"] > 16_000_000
    [told] = [each for each in result.warnings if "of its log" in each]
    assert "more than 16 MiB" in told
    assert "from 20 MiB on (max_slot_wal_keep_size)" in told
    assert log["kept_bytes_max"] == str(20 << 20)
    assert log["tables"] == ["public.orders"]


def test_tables_for_people(shop: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    shop.catch_up()
    assert execute(["cdc", "status", "shop.yaml"]) == 0
    assert "dataflare_shop_orders_" in capsys.readouterr().out
    assert execute(["cdc", "drop", "shop.yaml", "no"]) == 2
    assert "there is no source 'no'" in capsys.readouterr().err
    assert execute(["cdc", "drop", "shop.yaml"]) == 0
    assert "orders: dropped slot dataflare_shop_orders_" in capsys.readouterr().out
    assert execute(["cdc", "drop", "shop.yaml"]) == 0
    assert "there is nothing to drop" in capsys.readouterr().out
