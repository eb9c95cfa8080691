"""`dataflare resync --where`: rows of a table are read again while its changes are followed; the rest stays as it is."""

from __future__ import annotations

import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from binlog_kit import Plain
from mirrored_shop import Shop
from test_mysql_cdc_resync import Case, wait

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, run
from dataflare.jobs.resync import resync
from dataflare.sdk.crashpoints import observed


@pytest.fixture
def case(plain: Plain, tmp_path: Path) -> Case:
    for table in ("orders", "items"):
        plain.execute(
            f"create table {table} (id int primary key, name varchar(20))",
            f"insert into {table} select seq, concat('n', seq) from seq_1_to_50",
        )
    return Case(plain, tmp_path)


def spoil(case: Case) -> None:
    """Of the rows below 10 one is gone, one is other, one is more; and so are rows above."""
    with sqlite3.connect(case.folder / "copy.db") as db:
        db.execute("delete from orders where id in (3, 33)")
        db.execute("update orders set name = 'spoiled' where id in (4, 44)")
        db.execute("insert into orders values (-1, 'more'), (999, 'more')")


SPOILED = {(44, "spoiled"), (999, "more")}


def repaired(case: Case) -> list[tuple[Any, ...]]:
    """The table, except for what was spoiled outside the range."""
    rows = [row for row in case.table("orders") if row[0] not in (33, 44)]
    return sorted([*rows, *SPOILED])


def test_only_these_rows_are_read_again(case: Case) -> None:
    case.catch_up()
    spoil(case)
    assert resync(case.workflow(), case.home, "orders", "id < 10") == "shop.orders"
    assert case.states() == {"shop.orders": "asked"}
    case.database.execute(
        "update orders set name = 'later' where id = 5", "delete from orders where id = 6",
        "update orders set id = 61 where id = 7", "insert into orders values (-2, 'new'), (60, 'new')",
    )  # fmt: skip
    case.catch_up()
    assert case.rows("orders") == repaired(case)
    assert case.states() == {"shop.orders": "done"}
    assert [each.suffix for each in (case.home / "shop" / "resync").iterdir()] == [".state"]
    case.database.execute("delete from orders where id = 5", "insert into items values (60, 'i')")
    case.catch_up()
    assert case.rows("orders") == repaired(case)
    assert case.rows("items") == case.table("items")


def test_a_row_that_left_the_range_is_as_it_is(case: Case) -> None:
    """The copy has it in the range, and the table elsewhere."""
    case.catch_up()
    with sqlite3.connect(case.folder / "copy.db") as db:
        db.execute("update orders set name = 'x' where id in (20, 21)")
        db.execute("insert into orders values (100, 'x')")
    resync(case.workflow(), case.home, "orders", "id in (20, 21, 100)")
    case.catch_up()
    assert case.rows("orders") == case.table("orders")


def test_several_ranges_are_all_read(case: Case) -> None:
    case.catch_up()
    spoil(case)
    for where in ("id < 10", "id between 30 and 40", "id > 40"):
        resync(case.workflow(), case.home, "orders", where)
    case.catch_up()
    assert case.rows("orders") == case.table("orders")
    assert case.states() == {"shop.orders": "done"}


@pytest.mark.parametrize("crash_at", [None, "sqlite.commit.before_commit", "engine.after_prepare"])
def test_a_run_that_is_active_and_dies_while_the_table_changes(
    case: Case, crash_at: str | None
) -> None:
    case.catch_up()
    spoil(case)
    resync(case.workflow(), case.home, "orders", "id < 10")
    shop = Shop(case.database.dsn, case.folder, case.text.replace("MODE", "streaming"))
    done = threading.Event()

    def change() -> None:
        number = 0
        while not done.wait(0.003):
            number += 1
            case.database.execute(
                f"update orders set name = 'u{number}' where id = {number % 12}",
                f"delete from orders where id = {(number + 5) % 12}",
                f"insert into orders values ({(number + 3) % 12}, 'i{number}') on duplicate key update name = name",
                f"update ignore orders set id = {-3 - number % 4} where id = {-3 - (number + 1) % 4}",
                f"insert into orders values ({-3 - number % 4}, 'moves') on duplicate key update name = name",
            )  # fmt: skip

    changing = threading.Thread(target=change)
    changing.start()
    try:
        if crash_at is not None:
            process = shop.start("streaming", crash_at)
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
        process = shop.start("streaming")
        wait(lambda: case.states() == {"shop.orders": "done"}, process)
    finally:
        done.set()
        changing.join()
    case.database.execute("insert into items values (100, 'behind')")
    wait(lambda: (100, "behind") in case.rows("items"), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert case.rows("orders") == repaired(case)


def test_changes_between_the_snapshot_and_its_place_of_the_log_win(case: Case) -> None:
    """The snapshot does not see them, and they come behind these rows."""
    case.catch_up()
    spoil(case)
    case.database.execute("insert into orders values (5000, 'more log to read')")
    resync(case.workflow(), case.home, "orders", "id < 10")
    left = [
        "update orders set name = 'newer' where id in (4, 5)", "delete from orders where id = 8",
        "insert into orders values (-1, 'mine')", "update orders set id = 3000 where id = 9",
    ]  # fmt: skip

    def act(point: str) -> None:
        while point == "mysql.cdc.after_snapshot" and left:
            case.database.execute(left.pop(0))

    with observed(act):
        case.catch_up()
    assert not left
    case.catch_up()
    assert case.rows("orders") == repaired(case)


def test_what_cannot_be_read_again_is_refused(case: Case) -> None:
    case.catch_up()
    with pytest.raises(DataFlareError, match="nam"):
        resync(case.workflow(), case.home, "orders", "nam = 'x'")
    with pytest.raises(DataFlareError, match="cannot find the rows where") as refused:
        resync(case.workflow(), case.home, "orders", "name = 'x'")
    assert refused.value.code == "E0809"
    with pytest.raises(DataFlareError) as refused:
        resync(case.workflow(), case.home, "orders", "id + 1")
    assert refused.value.code == "E0204"
    case.text = case.text.replace(
        "destinations:\n",
        "transformations:\n  some: {type: filter, inputs: [shop], config: {condition: id > 0}}\ndestinations:\n",
    ).replace("inputs: [shop], config: {path", "inputs: [some], config: {path")
    with pytest.raises(
        DataFlareError, match=r"step 'some\.orders' does not mirror the table by its key"
    ) as refused:
        resync(case.workflow(), case.home, "orders", "id < 10")
    assert refused.value.code == "E0809"


def test_a_range_that_the_workflow_cannot_take_any_more_is_told(case: Case) -> None:
    case.catch_up()
    spoil(case)
    resync(case.workflow(), case.home, "orders", "id < 10")
    case.text = case.text.replace("mode: mirror", "mode: upsert")
    result = run(case.workflow(), RunOptions(case.home, accept_changes=True))
    assert result.status == "finished", result.error
    assert [w for w in result.warnings if "rows of 'shop.orders' are not read again" in w]
    assert (4, "spoiled") in case.rows("orders")
