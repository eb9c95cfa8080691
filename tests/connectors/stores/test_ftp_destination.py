"""Files are written to a server of FTP: rows are there once wherever the process dies, and of two runs one is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from file_kit import read
from optional_packages import package
from servers.ftp import FtpServer, ftp_server
from store_play import KINDS, ROWS, Play, configs_at, die_at_each_step

from dataflare.errors import CheckpointError, DataFlareError, RunError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.destination import Epoch
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.uploads import open_uploads


@pytest.fixture(scope="module", params=[False, True], ids=["mlsd", "plain"])
def ftp(request: pytest.FixtureRequest) -> Iterator[FtpServer]:
    with ftp_server(plain=request.param) as server:
        yield server


def config(ftp: FtpServer, name: str, kind: str) -> dict[str, Any]:
    return {**configs_at(f"{ftp.url}/{name}/out/")[kind], "storage": ftp.storage}


def bucket(ftp: FtpServer, name: str) -> Any:
    """A folder of the server, as the buckets of other tests."""
    folder = ftp.root / name
    folder.mkdir(exist_ok=True)
    return package("obstore.store").LocalStore(folder, automatic_cleanup=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_dies_between_two_steps_and_goes_on(
    ftp: FtpServer, tmp_path: Path, kind: str
) -> None:
    """In the steps of servers that rename; those of all stores are with the other stores."""
    there = config(ftp, kind, kind)
    die_at_each_step(bucket(ftp, kind), there, kind, tmp_path, points=("store.upload.",))


def test_an_older_attempt_publishes_nothing_any_more(ftp: FtpServer, tmp_path: Path) -> None:
    async def work() -> None:
        play = Play(config(ftp, "older", "append"), tmp_path)
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
    found = (ftp.root / "older").rglob("*.parquet")
    assert not [path for path in found if not path.name.startswith(".")]


def test_of_two_that_put_one_version_one_wins(ftp: FtpServer) -> None:
    uploads, path = open_uploads(f"{ftp.url}/put/m.json", StorageOptions(**ftp.storage))
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
    with ThreadPoolExecutor(6) as threads:
        for version in (None, 0, 1):
            texts = [b"%d" % n for n in range(6)]
            won = list(threads.map(lambda t: uploads.put(f"{path}x", t, version), texts))  # noqa: B023
            assert sum(won) == 1
            assert uploads.get(f"{path}x") == (
                texts[won.index(True)],
                (version or 0) + (version is not None),
            )
    uploads.delete([f"{path}x"])
    assert sorted(each.name for each in (ftp.root / "put").iterdir()) == ["m.json.3", "m.jsonx.2"]


def test_a_server_that_does_not_replace_by_a_rename_gets_the_same_file(ftp: FtpServer) -> None:
    uploads, path = open_uploads(f"{ftp.url}/~x/a.csv", StorageOptions(**ftp.storage))
    local = ftp.folder / "local.csv"
    for text in ("a\n1\n", "a\n2\n"):
        local.write_text(text)
        staged = uploads.stage(local, path, f"{len(text):x}{text[2]}")
        uploads.publish(path, staged)
        uploads.publish(path, staged)  # once more, as after a crash
    assert read({"path": f"{ftp.url}/~x/a.csv", "storage": ftp.storage}, ftp.folder).frame[
        "a"
    ].to_list() == [2]
    local.write_text("a\n3\n")
    staged = uploads.stage(local, path, "5")
    uploads.discard(path, staged)
    with pytest.raises(CheckpointError):
        uploads.publish(path, staged)


def test_a_login_that_is_refused_and_a_folder_that_is_a_file(
    ftp: FtpServer, tmp_path: Path
) -> None:
    wrong = {**config(ftp, "lake", "single"), "storage": {**ftp.storage, "password": "wrong"}}
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(Play(wrong, tmp_path).begin())
    assert (caught.value.code, "wrong" in str(caught.value)) == ("E0602", False)
    (ftp.root / "taken").write_text("not a folder")
    with pytest.raises(DataFlareError) as caught:
        Play(config(ftp, "taken", "append"), tmp_path).go()
    assert caught.value.code == "E0602"
