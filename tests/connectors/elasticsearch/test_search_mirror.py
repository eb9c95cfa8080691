"""A mirror of a full read deletes the documents whose rows are gone, on a real OpenSearch."""

from __future__ import annotations

from typing import Any

import pytest
from search_kit import WRITE, Place

from dataflare.errors import ConfigError
from dataflare.sdk import registry
from dataflare.testing import Checkpoint, Crash, ScriptedSource
from dataflare.testing.scripted import ScriptedConnector

MIRROR = "id_field: id, mode: mirror, create_index: {shards: 2, replicas: 0}, batch_size: 40"


def ids(place: Place) -> list[int]:
    return sorted(map(int, place.documents()))


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": n, "v": n} for n in numbers]


def test_documents_whose_rows_are_gone_are_deleted(place: Place) -> None:
    assert place.write(rows(*range(100)), MIRROR).error is None
    result = place.write(rows(*range(90)), MIRROR)
    assert result.error is None
    assert result.published["out"]["deleted"] == 10
    assert ids(place) == [*range(90)]
    again = place.write(rows(*range(90), 200), MIRROR)
    assert again.error is None
    assert again.published["out"]["deleted"] == 0
    assert ids(place) == [*range(90), 200]


@pytest.mark.parametrize("op", ["index", "update"])
def test_a_document_that_is_written_as_it_was_stays(place: Place, op: str) -> None:
    for _ in range(2):
        assert place.write(rows(*range(20)), f"{MIRROR}, op: {op}").error is None
        assert ids(place) == [*range(20)]


def test_more_than_may_be_deleted_is_an_error_and_nothing_is_deleted(place: Place) -> None:
    assert place.write(rows(*range(100)), MIRROR).error is None
    result = place.write(rows(*range(70)), MIRROR)
    assert result.error is not None
    assert result.error.code == "E0512"
    assert "30 of 100 rows" in result.error.message
    assert ids(place) == [*range(100)]
    assert place.write(rows(*range(70)), f"{MIRROR}, delete_max: 30", fresh=True).error is None
    assert ids(place) == [*range(70)]


def test_nothing_is_deleted_when_a_row_failed(place: Place) -> None:
    place.ask("PUT", "", {"mappings": {"properties": {"v": {"type": "long"}}}})
    assert place.write(rows(*range(50)), MIRROR).error is None
    broken: list[dict[str, Any]] = [{"id": str(n), "v": str(n)} for n in range(45)]
    broken[3]["v"] = "three"
    schema = "id: string, v: string"
    result = place.write(
        broken, MIRROR, schema=schema, handling="on_error: skip", accept_changes=True
    )
    assert result.error is None
    assert result.published["out"] == {"deleted": 0, "not_deleted": 6}
    assert ids(place) == [*range(50)]


def test_routed_documents_are_deleted_too(place: Place) -> None:
    more = f"{MIRROR}, routing: team"
    both = [{"id": n, "team": f"t{n % 3}"} for n in range(60)]
    assert place.write(both, more).error is None
    assert place.write(both[:55], more).error is None
    assert ids(place) == [*range(55)]


KEPT = f"{MIRROR}, deleted_at: gone"


def gone(place: Place) -> dict[int, Any]:
    return {int(i): each.get("gone") for i, each in sorted(place.documents().items())}


@pytest.mark.parametrize("op", ["index", "update"])
def test_documents_whose_rows_are_gone_stay_with_the_time(place: Place, op: str) -> None:
    more = f"{KEPT}, op: {op}"
    assert place.write(rows(*range(10)), more).error is None
    assert set(gone(place).values()) == {None}
    assert place.write(rows(*range(9)), more).published["out"]["deleted"] == 1
    marked = gone(place)
    assert {i for i, time in marked.items() if time is not None} == {9}
    # One that is marked does not count as a delete of this run, and keeps its time.
    assert place.write(rows(*range(9)), f"{more}, delete_max: 0").error is None
    assert gone(place) == marked
    assert place.write(rows(*range(10)), f"{more}, delete_max: 0").error is None
    assert gone(place) == dict.fromkeys(range(10))


def test_deletes_of_a_changelog_leave_documents_with_the_time(place: Place) -> None:
    def changed(*changes: tuple[int, str]) -> None:
        given = [{"id": i, "v": i, "_op": op} for i, op in changes]
        text = WRITE.replace("rows: {rows}", "changelog: columns, rows: {rows}").format(
            rows=given, more=KEPT, schema="", handling=""
        )
        assert place.run(text).error is None

    changed((1, "insert"), (2, "insert"))
    changed((2, "delete"), (3, "delete"))
    marked = gone(place)
    assert {i: time is None for i, time in marked.items()} == {1: True, 2: False}
    changed((2, "insert"))
    assert gone(place) == {1: None, 2: None}


@registry.register
class Whole(ScriptedConnector):
    """A script that is all that there is."""

    type = "scripted_whole"

    def reads_all(self) -> bool:
        return True


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_run_that_resumes_still_knows_what_was_there_before_it(
    place: Place, parallelism: int
) -> None:
    assert place.write(rows(*range(300)), MIRROR).error is None
    text = """\
name: write
settings: {parallelism: PARALLEL, restart: {attempts: 0}, checkpoint: {interval: 20ms}}
sources:
  rows: {type: scripted_whole, config: {script: mirrored}}
destinations:
  out: {type: opensearch, inputs: [rows], config: {connection: "URL", index: INDEX, MORE}}
"""
    text = text.replace("MORE", MIRROR)
    script = [*rows(*range(100)), Checkpoint(), *rows(*range(100, 150)), Crash()]
    ScriptedSource([*script, *rows(*range(150, 280))], name="mirrored")
    broken = place.run(text.replace("PARALLEL", "1"), home="long")
    assert broken.error is not None
    assert ids(place) == [*range(300)]
    result = place.run(text.replace("PARALLEL", str(parallelism)), home="long")
    assert result.error is None, result.error
    assert result.resumed_from is not None
    assert result.published["out"]["deleted"] == 20
    assert ids(place) == [*range(280)]


@pytest.mark.parametrize(("suffix", "more"), [("", ", sequence: v"), ("-{v}", "")])
def test_what_could_not_be_told_is_refused(place: Place, suffix: str, more: str) -> None:
    name, place.index = place.index, place.index + suffix
    error = place.write(rows(1), MIRROR + more).error
    place.index = name
    assert isinstance(error, ConfigError)
    assert "cannot tell which documents are gone" in error.message
