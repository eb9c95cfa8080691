"""Files are written to a server of SFTP: rows are there once wherever the process dies, and over connections that break."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from file_kit import read
from optional_packages import package
from servers.sftp import SftpServer
from store_play import KINDS, ROWS, Play, configs_at, die_at_each_step

from dataflare import RunOptions, run
from dataflare.errors import CheckpointError, DataFlareError, RunError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.destination import Epoch
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.uploads import open_uploads
from dataflare.testing import FaultProxy, Faults
from dataflare.workflow.load import load_text


def config(sftp: SftpServer, kind: str) -> dict[str, Any]:
    return {**configs_at(f"{sftp.url}/lake/out/")[kind], "storage": sftp.storage}


def bucket(sftp: SftpServer) -> Any:
    """The folder `lake` of the server, as the buckets of other tests."""
    lake = sftp.root / "lake"
    lake.mkdir(exist_ok=True)
    return package("obstore.store").LocalStore(lake)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_dies_between_two_steps_and_goes_on(
    sftp: SftpServer, tmp_path: Path, kind: str
) -> None:
    """In the steps that SFTP has of its own; those of all stores are with the other stores."""
    die_at_each_step(bucket(sftp), config(sftp, kind), kind, tmp_path, points=("store.upload.",))


def test_a_server_without_extensions_gets_the_same_files(
    sftp: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot replace a file by a rename, and cannot be told to write to its disk."""
    asyncssh = package("asyncssh")

    async def unsupported(*_: Any) -> None:
        raise asyncssh.SFTPOpUnsupported("not supported")

    monkeypatch.setattr(asyncssh.SFTPClient, "posix_rename", unsupported)
    monkeypatch.setattr(asyncssh.SFTPClientFile, "fsync", unsupported)
    die_at_each_step(bucket(sftp), config(sftp, "single"), "single", tmp_path)


def test_an_older_attempt_publishes_nothing_any_more(sftp: SftpServer, tmp_path: Path) -> None:
    async def work() -> None:
        play = Play(config(sftp, "append"), tmp_path)
        committer, writer = await play.begin()
        await writer.write_batch(SharedDataBatch(ROWS[:300]))
        made = await writer.prepare(1, final=False)
        newer, _ = await play.begin()
        with pytest.raises(RunError) as caught:
            await committer.commit(Epoch(1, "{}"), [made])
        assert caught.value.code == "E0804"
        with pytest.raises((CheckpointError, DataFlareError)):
            await newer.commit(Epoch(1, "{}"), [made])

    asyncio.run(work())
    assert not [path for path in sftp.root.rglob("*.parquet") if not path.name.startswith(".")]


def test_of_two_that_put_one_version_one_wins(sftp: SftpServer) -> None:
    uploads, path = open_uploads(f"{sftp.url}/lake/m.json", StorageOptions(**sftp.storage))
    assert uploads.get(path) is None
    assert [uploads.put(path, data) for data in (b"1", b"2")] == [True, False]
    for number in range(3):
        found = uploads.get(path)
        assert found is not None
        data, version = found
        assert data == (b"1", b"new 0", b"new 1")[number]
        both = [uploads.put(path, text, version) for text in (b"new %d" % number, b"late")]
        assert both == [True, False]
    assert not uploads.put(path, b"very late", 0)
    assert uploads.get(path) == (b"new 2", 3)
    assert [each.name for each in (sftp.root / "lake").iterdir()] == ["m.json.3"]


def test_files_are_whole_over_connections_that_break(sftp: SftpServer, tmp_path: Path) -> None:
    with FaultProxy("127.0.0.1", sftp.port, seed=3) as proxy:
        proxy.faults = Faults(cut_after=(100_000, 600_000), reset=True)
        storage = ", ".join(f'{k}: "{v}"' for k, v in sftp.known_at(proxy.port).items())
        url = f"sftp://127.0.0.1:{proxy.port}/lake"
        workflow = f"""
name: copy
settings: {{restart: {{attempts: 1000, delay: 10ms, max_delay: 50ms}}, checkpoint: {{interval: 50ms}}}}
sources:
  s: {{type: generate, config: {{rows: 10000, columns: {{n: {{sequence: 0}}, x: {{int: [0, 1000000000]}}}}}}}}
destinations:
  d:
    type: file
    inputs: [s]
    config: {{path: "{url}/parts/", format: csv, rows_per_part: 1000, storage: {{{storage}}}}}
    error_handling: {{retry_policy: {{max_attempts: 1000, initial_backoff: 10ms, max_backoff: 50ms}}}}
"""
        assert run(load_text(workflow, base=tmp_path), RunOptions(tmp_path / "home")).error is None
        assert proxy.broken > 0
    found = read({"path": f"{sftp.url}/lake/parts/*.csv", "storage": sftp.storage}, tmp_path).frame
    assert sorted(found["n"]) == list(range(10_000))


def test_a_folder_without_rights_is_an_error(sftp: SftpServer, tmp_path: Path) -> None:
    wrong = {**config(sftp, "single"), "storage": {**sftp.storage, "password": "wrong"}}
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(Play(wrong, tmp_path).begin())
    assert (caught.value.code, "wrong" in str(caught.value)) == ("E0602", False)
    (sftp.root / "lake").write_text("not a folder")
    with pytest.raises(DataFlareError) as caught:
        Play(config(sftp, "append"), tmp_path).go()
    assert caught.value.code == "E0607"
