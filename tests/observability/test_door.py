"""Ask a run through its socket."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dataflare.cli import living
from dataflare.errors import DataFlareError, RunError
from dataflare.observability.door import DOOR, NotRunning, ask, open_door


def count(asked: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    yield from ({"n": n} for n in range(asked["to"]))


def refuse(_: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    yield {"n": 0}
    raise RunError("no such step", code="E0108", help="try another")


def slow(_: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    raise TimeoutError
    yield {}


ANSWERS = {"count": count, "refuse": refuse, "slow": slow}


@pytest.mark.parametrize("long", [False, True])
def test_an_answer_has_as_many_lines_as_it_takes(tmp_path: Path, long: bool) -> None:
    folder = tmp_path / ("a" * 120 if long else "a")
    folder.mkdir()
    with open_door(folder, ANSWERS):
        assert [each["n"] for each in ask(folder, "count", to=3)] == [0, 1, 2]
        assert stat.S_IMODE((folder / DOOR).stat().st_mode) == 0o600
        # Several at once, and one that is not read to its end.
        first, second = ask(folder, "count", to=10**9), ask(folder, "count", to=2)
        assert [next(first), next(second), next(first)] == [{"n": 0}, {"n": 0}, {"n": 1}]
        first.close()
    assert not (folder / DOOR).exists()
    with pytest.raises(NotRunning):
        next(ask(folder, "count", to=1))


def test_the_socket_of_a_killed_run_is_no_run_and_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / DOOR))
    with pytest.raises(NotRunning):
        next(ask(tmp_path, "count", to=1))
    with open_door(tmp_path, ANSWERS):
        assert len(list(ask(tmp_path, "count", to=1))) == 1


def test_a_run_that_does_not_answer_keeps_callers_no_longer_than_they_wait(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / DOOR))
        deaf.listen()
        with pytest.raises(TimeoutError):
            next(ask(tmp_path, "count", to=1, patience_s=0.05))
        view = living.view_of(tmp_path, patience_s=0.05)
        assert view is not None
        assert (view.workflow, view.status) == (tmp_path.name, living.SILENT)


def test_what_a_killed_run_or_another_version_answers_is_no_error(tmp_path: Path) -> None:
    def cut(answer: bytes) -> None:
        with deaf.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / DOOR))
        deaf.listen()
        for answer, status in ((b'{"workfl', None), (b'{"workflow": 1}\n', living.OTHER)):
            thread = threading.Thread(target=cut, args=(answer,))
            thread.start()
            view = living.view_of(tmp_path)
            thread.join()
            assert (view.status if view is not None else None) == status


def test_an_answer_ends_when_its_caller_has_gone(tmp_path: Path) -> None:
    ended = threading.Event()

    def endless(_: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        try:
            while True:
                yield {"n": 1}
        finally:
            ended.set()

    with open_door(tmp_path, {"endless": endless}):
        answer = ask(tmp_path, "endless")
        next(answer)
        answer.close()
        assert ended.wait(10)


def test_what_the_run_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    with open_door(tmp_path, ANSWERS):
        answer = ask(tmp_path, "refuse")
        assert next(answer) == {"n": 0}
        with pytest.raises(RunError, match="no such step") as refused:
            next(answer)
        assert (refused.value.code, refused.value.help) == ("E0108", "try another")
        for question, words in (("slow", "does not answer"), ("else", "does not know")):
            with pytest.raises(DataFlareError, match=words):
                next(ask(tmp_path, question))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / DOOR))
            connection.sendall(b"no json\n")
            assert b"does not know" in connection.recv(1000)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / DOOR))
            connection.sendall(b"[" * 60_000 + b"\n")
            assert b"does not know" in connection.recv(1000)


def test_a_door_where_too_many_wait_is_that_of_a_run_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(str(tmp_path / DOOR))
        deaf.listen(1)
        for _ in range(2):
            caller = waiting.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(str(tmp_path / DOOR))
        view = living.view_of(tmp_path, patience_s=0.05)
        assert view is not None
        assert view.status == living.SILENT
        with pytest.raises(DataFlareError, match="does not answer"):
            next(living.answers_of(tmp_path, "tap", patience_s=0.05))


def test_many_may_wait_at_a_door(tmp_path: Path) -> None:
    with open_door(tmp_path, ANSWERS), contextlib.ExitStack() as all_of_them:
        for _ in range(100):
            caller = all_of_them.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            caller.connect(str(tmp_path / DOOR))


def test_an_answer_that_fails_unforeseen_says_so(tmp_path: Path) -> None:
    def broken(_: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        raise ArithmeticError
        yield {}

    with (
        open_door(tmp_path, {"broken": broken}),
        pytest.raises(DataFlareError, match="cannot answer this question: ArithmeticError"),
    ):
        next(ask(tmp_path, "broken"))
