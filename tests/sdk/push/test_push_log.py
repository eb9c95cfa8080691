"""The log between senders and a run: what was acknowledged is read again, whatever happened to the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.errors import SystemError_
from dataflare.sdk.push import blocks
from dataflare.sdk.push import log as log_module
from dataflare.sdk.push.blocks import Place, messages_of, segments_in
from dataflare.sdk.push.log import LogFull, PushLog, first_messages, trim
from dataflare.testing import RecordedDisk

BYTES_MAX = 4_096


def opened(folder: Path, bytes_max: int = BYTES_MAX) -> PushLog:
    return PushLog(folder, bytes_max=bytes_max, step="inbox")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[PushLog]:
    made = opened(folder)
    yield made
    made.close()


def numbered(first: int, after: int) -> list[list[Any]]:
    return [[b"message %d" % n, n, [["name", b"value"]], None] for n in range(first, after)]


def contents(log: PushLog, place: Place | None = None, bytes_max: int = 100) -> list[list[Any]]:
    found: list[list[Any]] = []
    place = place or log.start
    while place.offset < log.end.offset:
        read, place = log.read(place, bytes_max)
        assert read
        found += [message for block in read for message in messages_of(block)]
    return found


def filled(log: PushLog) -> int:
    """Append until it is full. Returns how many messages it has then."""
    for end in range(0, 10_000, 5):
        try:
            log.append(numbered(end, end + 5))
        except LogFull:
            return end
    raise AssertionError("it took everything")


def places(log: PushLog) -> list[Place]:
    """The place before each block, and the end."""
    found, place = [log.start], log.start
    while place.offset < log.end.offset:
        _, place = log.read(place, 1)
        found.append(place)
    return found


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 40)),
            st.tuples(st.just("trim"), st.integers(0, 100)),
            st.tuples(st.just("open"), st.integers(0, 60)),
        ),
        max_size=30,
    )
)
@settings(max_examples=60)
def test_it_has_what_was_appended_and_not_trimmed(tmp_path_factory: Any, steps: Any) -> None:
    folder = tmp_path_factory.mktemp("logs") / "log"
    log, end, trimmed, id_ = opened(folder), 0, 0, None
    for step, number in steps:
        if step == "append":
            try:
                log.append(numbered(end, end + number))
                end += number
            except LogFull:
                assert log.num_bytes > BYTES_MAX // 2
        elif step == "trim":
            trimmed = max(trimmed, end * number // 100)
            log.trim(trimmed)
        else:
            log.close()
            if number % 2:
                # What a write that nobody was told of leaves behind.
                with blocks.segment_path(folder, segments_in(folder)[-1]).open("ab") as file:
                    file.write(blocks.encoded(end, numbered(end, end + 3))[:number])
            log = opened(folder)
        id_ = id_ or log.id
        assert log.id == id_
        assert log.end.offset == end
        assert log.num_bytes <= BYTES_MAX
        first = log.start.offset
        assert first <= trimmed or first == 0
        assert contents(log, bytes_max=number) == numbered(first, end)
        for place in places(log):
            assert contents(log, log.check(place)) == numbered(place.offset, end)
    log.close()


def test_positions_that_are_trimmed_exactly_are_the_next_segment(log: PushLog) -> None:
    for n in range(20):
        log.append(numbered(n * 5, n * 5 + 5))
    for place in places(log):
        log.trim(place.offset)
        found = log.check(place)
        assert found is not None
        assert contents(log, found) == numbered(place.offset, 100)
    assert log.check(Place(log.start.offset - 1, 0, 0)) is None
    assert log.check(Place(101, log.end.segment, log.end.byte)) is None


def test_a_full_log_refuses_until_messages_are_committed(folder: Path, log: PushLog) -> None:
    told: list[bool] = []
    log.trimmed = lambda: told.append(True)
    end = filled(log)
    before = log.num_bytes
    trim(folder, end)
    assert told
    assert log.num_bytes < before // 4
    log.append(numbered(end, end + 5))
    assert contents(log)[-5:] == numbered(end, end + 5)


def test_a_log_that_is_open_is_not_opened_again(folder: Path, log: PushLog) -> None:
    with pytest.raises(SystemError_, match="in use") as caught:
        opened(folder)
    assert caught.value.code == "E0605"


@pytest.mark.parametrize("bit", [0, 40, 200, 700])
def test_a_block_that_is_damaged_is_an_error(folder: Path, bit: int) -> None:
    log = opened(folder, 1 << 20)
    for n in range(10):
        log.append(numbered(n, n + 1))
    log.close()
    path = blocks.segment_path(folder, 0)
    data = bytearray(path.read_bytes())
    data[bit // 8 + 30] ^= 1 << bit % 8
    path.write_bytes(data)
    with pytest.raises(SystemError_, match="is damaged at byte") as caught:
        opened(folder, 1 << 20)
    assert caught.value.code == "E0613"


def test_an_older_segment_that_is_damaged_is_an_error_when_it_is_read(folder: Path) -> None:
    log = opened(folder)
    for n in range(20):
        log.append(numbered(n * 5, n * 5 + 5))
    log.close()
    first = blocks.segment_path(folder, segments_in(folder)[0])
    os.truncate(first, first.stat().st_size - 1)
    log = opened(folder)
    with pytest.raises(SystemError_, match="is damaged at byte"):
        contents(log)
    log.close()


def _cut(num_bytes: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - num_bytes)


def _flipped(at: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return flip


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda path: os.truncate(path, 0), _cut(1), _cut(200), _flipped(-3), _flipped(5)],
    ids=["deleted", "emptied", "a byte", "a block and more", "flipped", "flipped at its start"],
)
def test_a_newest_segment_that_is_damaged_is_an_error(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    """Also its last block, which a write that was cut would leave in the same way if it had not been acknowledged."""
    log = opened(folder)
    for n in range(12):
        log.append(numbered(n * 5, n * 5 + 5))
    log.close()
    assert len(segments_in(folder)) > 1
    damage(blocks.segment_path(folder, segments_in(folder)[-1]))
    with pytest.raises(SystemError_, match=r"is damaged at byte|is missing") as caught:
        opened(folder)
    assert caught.value.code == "E0613"


def test_the_end_of_a_log_without_its_mark_is_an_error_unless_an_older_version_wrote_it(
    folder: Path,
) -> None:
    log = opened(folder)
    log.append(numbered(0, 5))
    log.close()
    (folder / "end").unlink()
    with pytest.raises(SystemError_, match="tells its end"):
        opened(folder)
    (folder / "end").unlink()
    about = (folder / "log.json").read_text()
    (folder / "log.json").write_text(about.replace('"format":2', '"format":1'))
    log = opened(folder)
    assert contents(log) == numbered(0, 5)
    log.close()
    assert (folder / "log.json").read_text() == about
    os.truncate(blocks.segment_path(folder, 0), 40)
    with pytest.raises(SystemError_, match="is damaged at byte"):
        opened(folder)


def test_messages_without_their_log_are_an_error(folder: Path) -> None:
    opened(folder).close()
    (folder / "log.json").unlink()
    with pytest.raises(SystemError_, match=r"no log\.json") as caught:
        opened(folder)
    assert caught.value.code == "E0613"


def test_a_new_log_has_another_name(folder: Path) -> None:
    log = opened(folder)
    before = log.id
    log.close()
    shutil.rmtree(folder)
    log = opened(folder)
    assert log.id != before
    log.close()


def test_a_disk_without_room_takes_nothing_and_goes_on_later(
    log: PushLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(numbered(0, 3))
    real = os.pwrite

    def half(number: int, data: Any, at: int) -> int:
        if at > log.end.byte:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(number, bytes(data)[: len(data) // 2], at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(SystemError_) as caught:
            log.append(numbered(3, 6))
        assert caught.value.code == "E0603"
    log.append(numbered(3, 6))
    assert contents(log) == numbered(0, 6)


@pytest.mark.parametrize("call", ["open", "sync_folder", "pwrite"])
def test_a_disk_without_room_for_a_new_segment_takes_nothing_and_goes_on_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What is appended next is smaller, and would have had room in the segment before."""
    log = opened(folder)
    end, one = 0, len(blocks.encoded(0, numbered(10, 11)))
    while log.end.byte + 2 * one < BYTES_MAX // 8:
        log.append(numbered(end, end + 1))
        end += 1
    before = log.end

    def has_no_room(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(log_module if call == "sync_folder" else os, call, has_no_room)
        for _ in range(2):
            with pytest.raises(SystemError_, match="No space left") as caught:
                log.append(numbered(end, end + 20))
            assert caught.value.code == "E0603"
    assert log.end == before
    for count in (1, 20, 1, 1):
        log.append(numbered(end, end + count))
        end += count
        assert contents(log) == numbered(0, end)
    log.close()
    log = opened(folder)
    assert contents(log) == numbered(0, end)
    log.close()


def test_after_a_failed_sync_it_must_be_opened_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(folder)
    log.append(numbered(0, 3))

    def fails(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(SystemError_):
            log.append(numbered(3, 6))
    with pytest.raises(SystemError_, match="cannot be written"):
        log.append(numbered(3, 6))
    log.close()
    log = opened(folder)
    assert contents(log)[:3] == numbered(0, 3)
    log.close()


def test_first_messages_are_those_of_a_log_that_nobody_has_open(folder: Path) -> None:
    assert first_messages(folder, 5) == []
    log = opened(folder)
    for n in range(20):
        log.append(numbered(n * 5, n * 5 + 5))
    log.close()
    assert first_messages(folder, 12) == numbered(0, 12)


def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    folder, told = root / "log", []
    with RecordedDisk(root) as disk:
        log = opened(folder)
        for n in range(24):
            log.append(numbered(n * 5, n * 5 + 5))
            told.append((n * 5 + 5, len(disk._moments)))
            if n % 7 == 6:
                log.trim(n * 5 - 10)
        log.close()
    states = list(disk.states(distinct=False))
    checked = 0
    for at, state in enumerate(states):
        moment = at // 3
        acknowledged = max((end for end, before in told if before <= moment), default=0)
        state.restore(root)
        log = opened(folder)
        try:
            assert log.end.offset >= acknowledged, str(state)
            assert contents(log) == numbered(log.start.offset, log.end.offset), str(state)
        finally:
            log.close()
        checked += 1
    assert checked > 100
