"""The history of runs, and what the next run continues."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dataflare.checkpoint import runs
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import Current, RunFailure, RunLog, RunRecord, new_run_id, utc_text
from dataflare.errors import CheckpointError, DataError

STARTED = "2024-01-31T12:00:00.000Z"


def record(run_id: str, **more: object) -> RunRecord:
    made = RunRecord(run_id, "orders", "0f8fad5b", 1, STARTED, file="orders.yaml")
    return replace(made, **more)


@pytest.fixture
def log(tmp_path) -> RunLog:
    return RunLog(tmp_path / "orders")


def test_a_finished_run_is_remembered_with_all_it_said(log):
    done = record(
        "01A",
        status="failed",
        ended_at=STARTED,
        resumed_from=7,
        counts={"orders": {"rows_out": 3}},
        error=RunFailure.of(DataError("row 3 is bad", code="E0501", step="orders")),
        carried={"orders": {"cursor": 1}},
        fingerprints={"orders": "ab"},
        settings={"parallelism": 2},
    )
    log.start(record("01A"))
    log.finish(done)
    assert log.last() == done
    assert RunLog(log.folder).find("01A") == done


def test_runs_are_listed_newest_first(log):
    for run_id in ("01A", "01C", "01B"):
        log.start(record(run_id, status="finished"))
    assert [each.run_id for each in log.list()] == ["01C", "01B", "01A"]
    assert [each.run_id for each in log.list(limit=2)] == ["01C", "01B"]


def test_a_run_that_says_running_without_its_lock_was_killed(log):
    log.start(record("01A"))
    log.start(record("01B"))
    assert [each.status for each in log.list()] == ["killed", "killed"]
    with RunLock(log.folder, "01B", STARTED):
        assert [each.status for each in log.list()] == ["running", "killed"]
        found = log.find("01B")
        assert found is not None
        assert found.status == "running"
    assert [each.status for each in log.list()] == ["killed", "killed"]


def test_no_run_yet_is_no_error(log):
    assert log.list() == ()
    assert log.last() is None
    assert log.find("01A") is None
    assert log.current() is None
    assert log.find("../../etc/passwd") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"run_id": "01Z"}'])
def test_a_record_that_cannot_be_read_is_left_out(log, text):
    log.start(record("01A", status="finished"))
    (log.folder / "runs" / "01Z.json").write_text(text)
    assert [each.run_id for each in log.list()] == ["01A"]
    last = log.last()
    assert last is not None
    assert last.run_id == "01A"


def test_a_record_of_a_later_version_with_more_in_it_is_read(log):
    log.start(record("01A", status="finished"))
    path = log.folder / "runs" / "01A.json"
    path.write_text(path.read_text().replace("{", '{"region": "eu",', 1))
    assert log.last() == record("01A", status="finished")


def test_the_history_does_not_grow_for_ever(log, monkeypatch):
    monkeypatch.setattr(runs, "KEEP_RUNS", 3)
    for number in range(6):
        log.start(record(f"01{number}", status="finished"))
    assert [each.run_id for each in log.list()] == ["015", "014", "013"]


def test_what_the_next_run_continues_comes_back(log):
    current = Current("0f8fad5b", 2, "01A", True, {"orders": {"cursor": "2024"}})
    log.set_current(current)
    assert RunLog(log.folder).current() == current
    assert not [name for name in os.listdir(log.folder) if name.startswith(".")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9}', '{"version": 1}'])
def test_a_damaged_lineage_is_an_error_and_not_a_new_beginning(log, text):
    log.set_current(Current("0f8fad5b", 1, "01A"))
    (log.folder / "current.json").write_text(text)
    with pytest.raises(CheckpointError) as raised:
        log.current()
    assert raised.value.code == "E0701"
    assert "--fresh" in str(raised.value.help)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"attempt": 4', '"attempt": 5'),
        ('"last_epoch": 17', '"last_epoch": 1'),
        ('"finished": true', '"finished": false'),
        ('"cursor": 12', '"cursor": 13'),
        ('"workflow": "orders"', '"workflow": "others"'),
    ],
)
def test_a_lineage_that_says_something_else_than_was_written_is_an_error(log, written, instead):
    log.set_current(
        Current("0f8fad5b", 4, "01A", finished=True, carried={"o": {"cursor": 12}}, last_epoch=17)
    )
    path = log.folder / "current.json"
    assert path.read_text().count(written) == 1
    path.write_text(path.read_text().replace(written, instead))
    with pytest.raises(CheckpointError) as raised:
        log.current()
    assert raised.value.code == "E0701"


@given(st.lists(st.tuples(st.floats(0, 2**40), st.binary(min_size=10, max_size=10)), min_size=2))
def test_run_ids_are_in_the_order_of_time(moments):
    ids = [new_run_id(lambda at=at: at, lambda _, chance=chance: chance) for at, chance in moments]
    assert all(len(each) == 26 for each in ids)
    by_time = sorted(
        zip(moments, ids, strict=True), key=lambda pair: (int(pair[0][0] * 1000), pair[0][1])
    )
    assert [each for _, each in by_time] == sorted(ids)


def test_run_ids_differ():
    assert len({new_run_id() for _ in range(1000)}) == 1000


def test_times_are_rfc_3339():
    assert utc_text(0) == "1970-01-01T00:00:00.000Z"
    assert utc_text(1706702400.5) == "2024-01-31T12:00:00.500Z"


def test_the_end_follows_the_report_at_once(log: RunLog) -> None:
    """When `end` is called, the record says "reported", and the file is whole."""
    log.start(record("01A"))
    seen = []
    done = replace(record("01A"), status="finished", counts={"reported": {"rows": 0}})
    log.finish(done, lambda: seen.append(RunLog(log.folder).read("01A")))
    assert seen == [done]
    assert RunLog(log.folder).read("01A") == done


def test_a_process_that_dies_before_its_end_has_not_reported(log: RunLog) -> None:
    log.start(record("01A"))
    done = replace(record("01A"), status="finished", reported=False)
    log.finish(replace(done, reported=True))
    path = log.folder / "runs" / "01A.json"
    text = path.read_text()
    path.write_text(text.replace('"reported": 1', '"reported": 0'))
    assert RunLog(log.folder).read("01A") == done
    assert "reported" not in done.to_json()


def test_a_full_disk_does_not_make_a_failed_run_a_killed_one(log, monkeypatch):
    log.start(record("01A"))

    def full(*args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.files, "write_whole", full)
    failure = RunFailure.of(DataError("the disk is full", code="E0603"))
    many = {f"step{n}": {"rows_out": n} for n in range(1000)}
    log.finish(record("01A", status="failed", ended_at=STARTED, error=failure, counts=many))
    found = log.find("01A")
    assert (found.status, found.error, found.reported) == ("failed", failure, True)
