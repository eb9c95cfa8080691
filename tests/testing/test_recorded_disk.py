"""What a recorded disk says that a power cut may leave."""

from __future__ import annotations

import os
from pathlib import Path

from dataflare.checkpoint.files import make_folder, sync_folder, write_whole
from dataflare.sdk.crashpoints import crash_point
from dataflare.testing import RecordedDisk


def trees(disk: RecordedDisk) -> list[dict[str, bytes | None]]:
    return [dict(state.tree) for state in disk.states()]


def lost(disk: RecordedDisk) -> list[dict[str, bytes | None]]:
    """What is there at each moment when everything is gone that was not synced."""
    return [dict(s.tree) for s in disk.states(distinct=False) if s.fate == "lost"]


def write(path: Path, data: bytes, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def test_a_name_is_lost_without_a_sync_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with RecordedDisk(folder) as disk:
        write(folder / "a", b"content", sync=True)
    assert {} in trees(disk)

    with RecordedDisk(tmp_path) as disk:
        sync_folder(folder)
        crash_point("here")
    assert lost(disk)[-1]["folder/a"] == b"content"


def test_content_is_lost_or_torn_without_a_sync_of_the_file(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path) as disk:
        write(tmp_path / "a", b"content!", sync=False)
        sync_folder(tmp_path)
    found = [tree.get("a") for tree in trees(disk)]
    assert b"" in found
    assert b"cont\0\0\0\0" in found
    assert b"content!" not in found


def test_a_replaced_file_is_the_old_one_or_the_new_one_if_it_was_synced_first(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a", b"old", sync=False)
    with RecordedDisk(tmp_path) as disk:
        write_whole(tmp_path / "a", b"new")
    assert {tree["a"] for tree in trees(disk)} == {b"old", b"new"}
    assert lost(disk)[-1] == {"a": b"new"}

    with RecordedDisk(tmp_path) as disk:
        write(tmp_path / "b", b"newer", sync=False)
        (tmp_path / "b").replace(tmp_path / "a")
    assert {tree["a"] for tree in trees(disk)} > {b"new", b""}


def test_a_removed_name_comes_back_until_its_folder_is_synced(tmp_path: Path) -> None:
    write(tmp_path / "a", b"content", sync=False)
    with RecordedDisk(tmp_path) as disk:
        (tmp_path / "a").unlink()
        before_sync = len(trees(disk))
        sync_folder(tmp_path)
    after = trees(disk)
    assert {"a": b"content"} in after[:before_sync]
    assert {} in after


def test_a_folder_is_there_when_its_parent_was_synced(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path) as disk:
        (tmp_path / "loose").mkdir()
        make_folder(tmp_path / "firm" / "inner")
    assert {"firm", "firm/inner"} <= lost(disk)[-1].keys()
    assert any("loose" in tree for tree in trees(disk))
    assert any("loose" not in tree for tree in trees(disk))


def test_files_that_sync_themselves_are_taken_when_they_are_settled(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path, self_synced=("*.db",), settled=("done",)) as disk:
        write(tmp_path / "a.db", b"half", sync=False)
        crash_point("underway")
        write(tmp_path / "a.db", b"whole", sync=False)
        crash_point("done")
    assert {tree.get("a.db") for tree in trees(disk)} == {None, b"whole"}


def test_a_state_can_be_put_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(root / "a", b"1", sync=False)
    with RecordedDisk(root) as disk:
        make_folder(root / "inner")
        write_whole(root / "inner" / "b", b"2")
        (root / "a").unlink()
        sync_folder(root)
    *_, last = disk.states()
    first = next(iter(disk.states()))
    for state in (first, last, first):
        state.restore(root)
        found = {p.name: p.read_bytes() for p in root.rglob("*") if p.is_file()}
        assert found == ({"a": b"1"} if state is first else {"b": b"2"})
