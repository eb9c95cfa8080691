"""The kit of the tests' servers itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from servers import __main__ as by_hand
from servers import fetch
from servers.services import SERVICES, WANTED


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAFLARE_TESTS_CACHE", str(tmp_path / "cache"))


def test_a_folder_is_made_once_by_many_who_want_it() -> None:
    makers: list[str] = []

    def make(folder: Path) -> None:
        makers.append(threading.current_thread().name)
        (folder / "part").write_text("whole")

    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append((fetch.cached("x-1", make) / "part").read_text())
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(makers), found) == (1, ["whole"] * 8)


def test_what_failed_half_way_is_not_in_the_cache() -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError):
        fetch.cached("y-1", fails)
    assert [p.name for p in fetch.cache_folder().iterdir()] == [".y-1.lock"]
    assert fetch.cached("y-1", lambda folder: (folder / "ok").touch()).name == "y-1"


def test_heavy_services_are_skipped_with_the_command_that_runs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heavy = SERVICES["kafka"]
    monkeypatch.setenv("CI", "false")
    monkeypatch.delenv(WANTED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="TEST_SERVICES=kafka make test"):
        heavy.may_start()
    SERVICES["redis"].may_start()
    for name, value in ((WANTED, "kafka"), (WANTED, "x,all"), ("CI", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            heavy.may_start()


def test_by_hand_the_table_is_shown_and_a_wrong_name_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert by_hand.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(each.title in shown and each.licence in shown for each in SERVICES.values())
    assert by_hand.main(["postgres", "oracle"]) == 2
    assert "'oracle'" in capsys.readouterr().err
