"""The source of the page on sources that go on keeps the contract, and does what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dataflare.sdk.registry import register
from dataflare.testing import Lab, check_source, description
from dataflare.workflow import load_text

PAGE = Path(__file__).parents[2] / "docs/extend/streams.md"


@pytest.fixture(scope="module")
def spool() -> Iterator[dict[str, Any]]:
    code = re.search(r"```python title=.*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    module = ModuleType("dataflare_spool")
    sys.modules[module.__name__] = module  # so that its classes pickle
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    yield module.__dict__
    del sys.modules[module.__name__]


def write(folder: Path, name: str, sizes: list[int], torn: int = -1) -> None:
    """A partition with transactions of these sizes. torn: the line that is not a message."""
    lines = [
        json.dumps({"order": n, "amount": n / 2, "last": n + 1 == size})
        for size in sizes
        for n in range(size)
    ]
    lines = [line[:-5] if number == torn else line for number, line in enumerate(lines)]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_it_keeps_the_contract(spool: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "a", [3, 1, 20], torn=5)
    write(tmp_path, "b", [2])
    (tmp_path / "closed").touch()
    source = spool["SpoolSource"]
    asyncio.run(check_source(lambda: description(source, {"path": "."}, base=tmp_path)))


def test_it_finds_partitions_commits_whole_transactions_and_is_told_what_is_committed(
    spool: dict[str, Any], tmp_path: Path
) -> None:
    class Growing(spool["SpoolSource"]):  # type: ignore[misc]
        """Another partition arrives when something has been committed, and then the spool is closed."""

        type = "growing_spool"

        def discovery_interval_s(self) -> float:
            return 0.001

        async def committed(self, positions: Any) -> None:
            await super().committed(positions)
            if any(position.value["line"] for position in positions.values()):
                write(tmp_path, "b", [4, 4])
                (tmp_path / "closed").touch()

    register(Growing)
    write(tmp_path, "a", [3, 9], torn=4)
    text = """\
name: spool
sources: {in: {type: growing_spool, config: {path: "."}, error_handling: {on_error: skip}}}
destinations: {out: {type: memory, inputs: [in], config: {name: out}}}
"""
    lab = Lab(tmp_path / "home")
    result = lab.run(load_text(text, base=tmp_path))
    assert result.status == "finished", result.error
    assert lab.frame("out").height == 3 + 8 + 8
    assert result.steps["in"]["errors"] == 1
    done = {path.stem: path.read_text() for path in tmp_path.glob("*.done")}
    assert done == {"a": "12", "b": "8"}
