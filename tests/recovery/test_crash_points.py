"""Die at each named place of the delivery protocol, in each destination; go on; compare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Sandbox, same

pytestmark = pytest.mark.rotates(5)

SOURCE = Path(__file__).parents[2] / "src" / "dataflare"
NAMED = re.compile(r"""crash_point\(\s*f?["']([a-z0-9_.{}]+)["']""")
HERE = ("engine.", "checkpoint.", "run.", "file.", "sqlite.", "duckdb.")
PREFIXES = {"{self._type}": ("sqlite", "duckdb"), "{crash}": ("checkpoint", "file.marker")}


def points() -> list[str]:
    """Every named place of the code that this workflow comes to; one that several share is a place
    in each of them. Those of other systems than files, SQLite and DuckDB, of replays, new plans, savepoints and sources
    with many splits are died at beside their own tests."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for point in NAMED.findall(path.read_text()):
            prefix, rest = re.fullmatch(r"({.*?}|[a-z0-9]+)\.(.+)", point).groups()
            found |= {f"{each}.{rest}" for each in PREFIXES.get(prefix, (prefix,))}
    return sorted(point for point in found if point.startswith(HERE))


POINTS = points()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict:
    sandbox = Sandbox(tmp_path_factory.mktemp("undisturbed"))
    assert sandbox.run() == 0
    return sandbox.contents()


def test_the_protocol_has_a_place_between_each_two_of_its_steps() -> None:
    assert {
        "engine.before_prepare",
        "engine.after_prepare",
        "engine.before_manifest",
        "engine.after_manifest",
        "engine.before_commit",
        "engine.after_commit",
    } <= set(POINTS)


@pytest.mark.parametrize("time", [1, 4])
@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_dies_there_goes_on_with_each_row_once(
    point: str, time: int, expected: dict, tmp_path: Path
) -> None:
    sandbox = Sandbox(tmp_path)
    ended = sandbox.run(crash_at=f"{point}:{time}")
    assert ended == -9 or time > 1, f"the run never came to {point}"
    if ended == -9:
        assert sandbox.run() == 0
    same(sandbox.contents(), expected)
    assert sandbox.leftovers() == []


def test_dying_twice_and_with_another_parallelism(expected: dict, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    assert sandbox.run(crash_at="engine.after_manifest:1") == -9
    assert sandbox.run("--set", "settings.parallelism=3", crash_at="engine.before_commit:1") == -9
    assert sandbox.run("--set", "settings.parallelism=2") == 0
    same(sandbox.contents(), expected)
