"""The log of a run."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from dataflare.errors import RunError
from dataflare.observability import logs
from dataflare.observability.logs import FOLDER, LogLine, RunLogger, following, lines, newest


def hide(text: str) -> str:
    return text.replace("s3cret", "***")


def refuse(text: str) -> None:
    raise AssertionError(text)


def messages(folder: Path, run_id: str) -> list[str]:
    return [line["message"] for line in lines(folder, run_id)]


def test_a_line_has_its_facts_and_no_secret(tmp_path: Path) -> None:
    heard: list[LogLine] = []
    logger = RunLogger("w", "R1", hide, heard.append)
    with logger.writing(tmp_path, refuse):
        logger.log("warning", "calls", "no connection with s3cret\nto db", "db", code="E0607")
    (line,) = lines(tmp_path, "R1")
    assert line == heard[0]
    assert line == {
        "time": line["time"],
        "level": "warning",
        "component": "calls",
        "message": "no connection with ***\nto db",
        "step": "db",
        "run": "R1",
        "workflow": "w",
        "code": "E0607",
    }
    assert line.text == f"{line['time'][11:19]} warning calls       no connection with ***\nto db"
    logger.log("info", "run", "after the end")
    assert len(messages(tmp_path, "R1")) == 1


def test_levels_change_while_it_writes(tmp_path: Path) -> None:
    logger = RunLogger("w", "R1", hide)
    with logger.writing(tmp_path, refuse):
        logger.log("debug", "checkpoint", "a")
        assert logger.set_level("checkpoint", "debug") == {"": "info", "checkpoint": "debug"}
        logger.log("debug", "checkpoint", "b")
        logger.log("debug", "run", "c")
        logger.set_level("", "error")
        logger.log("warning", "run", "d")
        logger.log("warning", "checkpoint", "e")
        with pytest.raises(RunError, match="no level 'loud'"):
            logger.set_level("", "loud")
        with pytest.raises(RunError, match="there is no component 'nosuch'"):
            logger.set_level("nosuch", "debug")
    assert messages(tmp_path, "R1") == ["b", "e"]


def test_a_log_has_a_bound_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_SIZE_MAX", 10_000)
    for run in range(25):
        with (logger := RunLogger("w", f"R{run:02}", hide)).writing(tmp_path, refuse):
            for n in range(200):
                logger.log("info", "run", f"line {n}")
    files = list((tmp_path / FOLDER).iterdir())
    assert sum(path.stat().st_size for path in files) < 20 * 2 * 10_500
    assert newest(tmp_path) == "R24"
    assert {path.name[:3] for path in files} == {f"R{run:02}" for run in range(5, 25)}
    told = messages(tmp_path, "R24")
    assert told == [f"line {n}" for n in range(200 - len(told), 200)]
    assert len(told) > 50


def test_it_is_followed_over_a_new_file_and_a_line_that_is_written_in_two_parts(
    tmp_path: Path,
) -> None:
    path = tmp_path / FOLDER / "R1.ndjson"
    path.parent.mkdir()
    follower = following(tmp_path, "R1", pause_s=0)
    assert next(follower) is None
    path.write_text('{"message": "a"}\n{"mess')
    assert next(follower) == {"message": "a"}
    assert next(follower) is None
    with path.open("a") as file:
        file.write('age": "b"}\n')
    assert next(follower) == {"message": "b"}
    assert next(follower) is None
    path.rename(tmp_path / FOLDER / "R1.ndjson.1")
    path.write_text(json.dumps({"message": "c"}) + "\n")
    found = None
    while found is None:
        found = next(follower)
    assert found == {"message": "c"}


def test_it_is_followed_while_a_full_file_is_set_aside_and_the_new_one_has_no_line_yet(
    tmp_path: Path,
) -> None:
    path = tmp_path / FOLDER / "R1.ndjson"
    path.parent.mkdir()
    path.write_text('{"message": "a"}\n')
    follower = following(tmp_path, "R1", pause_s=0)
    assert next(follower) == {"message": "a"}
    assert next(follower) is None
    with path.open("a") as file:
        file.write('{"message": "b"}\n')
    path.rename(tmp_path / FOLDER / "R1.ndjson.1")
    assert [next(follower) for _ in range(3)] == [{"message": "b"}, None, None]
    path.write_text('{"message": "c"}\n')
    assert next(follower) == {"message": "c"}


def test_it_is_followed_from_the_oldest_part_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "R1.ndjson"
    path.parent.mkdir()
    path.with_name("R1.ndjson.1").write_text('{"message": "a"}\n{"message": "b"}\n')
    assert newest(tmp_path) == "R1", "also where a kill came before the new part"
    path.write_text('{"message": "c"}\n')
    follower = following(tmp_path, "R1", pause_s=0)
    assert [line and line["message"] for line in itertools.islice(follower, 4)] == [*"abc", None]


@pytest.mark.parametrize("seed", range(20))
def test_one_who_follows_and_falls_behind_by_a_part_gets_each_line_once(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(logs, "_SIZE_MAX", 1000)  # five or six lines
    got: list[int] = []
    with (logger := RunLogger("w", "R1", hide)).writing(tmp_path, refuse):
        follower, num_written = following(tmp_path, "R1", pause_s=0), 0
        while num_written < 100:
            for _ in range(chance.randint(1, 4)):
                logger.log("info", "run", str(num_written))
                num_written += 1
            num_unread = chance.randint(0, 3)
            while num_written - len(got) > num_unread:
                found = itertools.islice(follower, 10)
                got.append(int(next(line["message"] for line in found if line is not None)))
        got += [int(line["message"]) for line in itertools.islice(follower, 10) if line is not None]
    assert got == list(range(num_written))


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "R1.ndjson").write_text('{"message": "a"}\n{"message": "b')
    assert messages(tmp_path, "R1") == ["a"]


def test_a_log_that_cannot_be_written_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    with (logger := RunLogger("w", "R1", hide)).writing(tmp_path, told.append):
        (tmp_path / FOLDER / "R1.ndjson").symlink_to("/dev/full")
        logger.log("info", "run", "a")
        logger.log("info", "run", "b")
    assert told == ["lines of this run's log are lost: No space left on device"]
    other = tmp_path / "other"
    other.mkdir()
    (other / FOLDER).touch()
    with (logger := RunLogger("w", "R1", hide)).writing(other, told.append):
        logger.log("info", "run", "a")
    assert told[1:] == ["no log of this run is written: File exists"]


def test_a_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    with (logger := RunLogger("w", "R1", hide)).writing(tmp_path, refuse):
        logger.log("info", "run", "a")
    folder = tmp_path / FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "R1.ndjson").stat().st_mode & 0o777 == 0o600
