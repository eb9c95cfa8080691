"""A file that is closed while a thread reads it: the thread gets bytes of that file or an error, never of another."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dataflare.formats.any_file import open_bytes


def test_a_file_that_is_closed_in_a_read_is_closed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a" * 100)
    (tmp_path / "b").write_bytes(b"b" * 100)
    real, inside, go_on = os.pread, threading.Event(), threading.Event()
    got: list[bytes] = []

    def slow(number: int, size: int, offset: int) -> bytes:
        inside.set()
        assert go_on.wait(10)
        return real(number, size, offset)

    file = open_bytes(tmp_path / "a")
    monkeypatch.setattr(os, "pread", slow)
    thread = threading.Thread(target=lambda: got.append(file.read_at(0, 100)))
    thread.start()
    assert inside.wait(10)
    file.close()
    other = open_bytes(tmp_path / "b")  # it would get the number of the file that was closed
    go_on.set()
    thread.join()
    assert got == [b"a" * 100]
    assert other.read_at(0, 3) == b"bbb"
    with pytest.raises(OSError, match="closed"):
        file.read_at(0, 1)
    file.close()
    other.close()


def test_a_file_that_nobody_closes_is_closed_when_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    closed: list[int] = []
    real = os.close
    monkeypatch.setattr(os, "close", lambda number: (closed.append(number), real(number)))
    file = open_bytes(tmp_path / "a")
    number = vars(file)["_fd"]
    del file
    assert closed == [number]
