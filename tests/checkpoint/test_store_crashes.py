"""The process dies, or the disk fills up, while a checkpoint is written: the last one is intact."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from checkpoint_samples import LINEAGE, child, manifest

from dataflare.checkpoint.store import LocalStore
from dataflare.errors import SystemError_
from dataflare.testing import RecordedDisk

PUBLISH = """
import sys
from pathlib import Path
import polars as pl
from checkpoint_samples import LINEAGE, manifest
from dataflare.checkpoint.store import LocalStore

store = LocalStore(Path(sys.argv[1]), LINEAGE)
chunk = store.write_chunk("second.arrow", pl.DataFrame({"a": [1]}))
store.publish(manifest(2, [chunk]))
print("published")
"""

FILL = """
import resource, sys
from pathlib import Path
import polars as pl
from checkpoint_samples import LINEAGE, manifest
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import SystemError_

store = LocalStore(Path(sys.argv[1]), LINEAGE)
store.publish(manifest(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for write in (
    lambda: store.write_chunk("big.arrow", pl.DataFrame({"a": [1, 2, 3]})),
    lambda: store.publish(manifest(2)),
):
    try:
        write()
        print("written")
    except SystemError_ as error:
        print(error.code, error.message)
"""


@pytest.mark.parametrize(
    ("place", "newest"),
    [
        ("checkpoint.before_publish", 1),
        ("checkpoint.before_rename", 1),
        ("checkpoint.after_rename", 2),
    ],
)
def test_a_checkpoint_is_there_whole_or_not_at_all_wherever_the_process_dies(
    tmp_path, place, newest
):
    LocalStore(tmp_path, LINEAGE).publish(manifest(1))
    process = child(PUBLISH, tmp_path, crash_at=place)
    out, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, error
    assert out == ""

    store = LocalStore(tmp_path, LINEAGE)
    facts = store.list_manifests()
    assert facts[0].epoch == newest
    assert all(fact.usable for fact in facts)

    store.rewind(newest)
    assert not [name for name in os.listdir(store.home) if name.startswith(".")]
    store.publish(manifest(newest + 1))
    assert store.list_manifests()[0].epoch == newest + 1


def test_without_a_crash_the_same_process_publishes(tmp_path):
    process = child(PUBLISH, tmp_path)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "published\n"), error
    assert LocalStore(tmp_path, LINEAGE).list_manifests()[0].usable


def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_file(tmp_path):
    process = child(FILL, tmp_path, "100")
    out, error = process.communicate(timeout=60)
    said = "E0603 disk full while writing a checkpoint; the last one, 1, is intact"
    assert out.splitlines() == [said, said], error

    store = LocalStore(tmp_path, LINEAGE)
    assert [fact.usable for fact in store.list_manifests()] == [True]
    assert files_below(tmp_path) == {f"{LINEAGE[:8]}/manifest-0000000001.json"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the machine lets us make one."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_really_full_leaves_the_last_checkpoint_and_no_half_file(small_disk):
    store = LocalStore(small_disk, LINEAGE)
    store.publish(manifest(1))
    incompressible = pl.select(pl.int_range(20_000).hash()).to_series().to_frame("a")
    with pytest.raises(SystemError_, match="the last one, 1, is intact") as raised:
        store.write_chunk("big.arrow", incompressible)
    assert raised.value.code == "E0603"
    assert files_below(small_disk) == {f"{LINEAGE[:8]}/manifest-0000000001.json"}

    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1 << 20))
    with pytest.raises(SystemError_) as raised:
        store.publish(manifest(2))
    assert raised.value.code == "E0603"
    filler.unlink()
    assert [fact.usable for fact in store.list_manifests()] == [True]
    store.publish(manifest(2))
    assert store.list_manifests()[0].epoch == 2


def test_each_checkpoint_that_a_power_cut_leaves_has_its_state(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = LocalStore(root, LINEAGE)
    with RecordedDisk(root) as disk:
        for epoch in range(1, 6):
            chunk = store.write_chunk(f"{epoch}.arrow", pl.DataFrame({"a": [epoch]}))
            store.publish(manifest(epoch, [chunk]))
            store.collect(retain=2)
    states = list(disk.states(distinct=False))
    for number, state in enumerate(states):
        state.restore(tmp_path / "after")
        facts = LocalStore(tmp_path / "after", LINEAGE).list_manifests(thorough=True)
        assert all(fact.usable for fact in facts[:2]), str(state)
        if state.fate == "names only":  # as where only the process dies
            assert all(fact.usable for fact in facts), str(state)
        if len(states) - number <= 3:  # what was published is durable, whatever was not synced
            assert facts[0].epoch == 5, str(state)


def test_checkpoints_that_were_taken_back_do_not_come_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = LocalStore(root, LINEAGE)
    for epoch in range(1, 5):
        store.publish(manifest(epoch))
    with RecordedDisk(root) as disk:
        store.rewind(2)
    for state in list(disk.states(distinct=False))[-3:]:
        state.restore(tmp_path / "after")
        facts = LocalStore(tmp_path / "after", LINEAGE).list_manifests()
        assert [fact.epoch for fact in facts] == [2, 1], str(state)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
