"""The facts that `plan` shows of sources and destinations: findings, and effects of a write. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from dataflare.errors import from_here
from dataflare.planner.physical import PhysicalPlan
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.source import SourceConnector
from dataflare.security.redact import redact

_COLUMNS_SHOWN = 8
_DELETES = {
    "append": "nothing",
    "upsert": "nothing: a row with the same key is replaced",
    "overwrite": "everything that is there, at the end of the run",
    "mirror": "rows that are gone from the source, at the end of the run",
}
"""By mode, what a run deletes in the destination."""
_PARTIAL = "only what arrives as deleted: the run does not read all rows of its source"


def of_source(connector: SourceConnector) -> dict[str, Any]:
    """`findings`, `doubts` and `effects` of a source, without secrets."""
    return {
        "found": {name: redact(text) for name, text in connector.findings().items()},
        "doubts": [redact(text) for text in connector.doubts()],
        "effects": [
            *connector.effects(),
            *(
                f"a TRUNCATE ends the run, because step '{step}' takes none"
                for step in dict.fromkeys(connector.not_truncated.values())
            ),
            *_unchanged(connector),
        ],
    }


def _unchanged(connector: SourceConnector) -> Iterator[str]:
    large = connector.capabilities().leaves_out
    for needed in connector.needs_unchanged.values():
        for step in dict.fromkeys(needed.values()):
            names = [f"'{name}'" for name in large if needed.get(name) == step]
            if names:
                yield (
                    f"an update that leaves a large value as it was (of {', '.join(names)}) ends the run, because step "
                    f"'{step}' needs the value: REPLICA IDENTITY FULL gives it"
                )


def source_notes(facts: Mapping[str, Any], schema: Mapping[str, str]) -> Iterator[str]:
    """The same facts as lines to show to the user, with the columns."""
    if facts["found"]:
        yield "found: " + ", ".join(f"{name} {text}" for name, text in facts["found"].items())
    yield from (f"look at this: {text}" for text in facts["doubts"])
    yield from facts["effects"]
    columns = [f"{name} {type_}" for name, type_ in list(schema.items())[:_COLUMNS_SHOWN]]
    more = len(schema) - _COLUMNS_SHOWN
    yield "columns: " + ", ".join([*columns, *([f"and {more} more"] if more > 0 else [])])


def of_destination(connector: DestinationConnector, *, complete: bool) -> dict[str, Any]:
    """Place, mode, key and deletes of a destination. complete: it receives all rows of its sources."""
    mode = connector.mode
    return {
        "place": place(connector),
        "mode": mode,
        "key": list(connector.key),
        "deletes": _DELETES.get(mode or "") if complete or mode != "mirror" else _PARTIAL,
        "effects": list(connector.effects()) if complete or mode != "mirror" else [],
    }


def place(connector: DestinationConnector) -> str | None:
    """Where a destination writes, without secrets. None if it stores no rows."""
    text = connector.place()
    return None if text is None else redact(text)


def destination_notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """The same facts as lines to show to the user."""
    if facts["place"]:
        yield f"writes to {from_here(facts['place'])}"
    if facts["mode"]:
        by = f" by {', '.join(facts['key'])}" if facts["key"] else ""
        yield f"mode {facts['mode']}{by}"
    if facts["deletes"] and facts["mode"] != "append":
        yield f"deletes {facts['deletes']}"
    yield from facts["effects"]


def dead_letters(plan: PhysicalPlan) -> list[dict[str, Any]]:
    """By place, the steps whose dead letters are written there."""
    places: dict[int, list[str]] = {}
    edges = {edge.id: edge.to_stage for edge in plan.edges}
    for stage in plan.stages:
        for step, edge in stage.letters.items():
            places.setdefault(edges[edge], []).append(step)
    letter_places = []
    for number, steps in places.items():
        connector = plan.stages[number].destination
        assert connector is not None
        letter_places.append(
            {
                "place": place(connector) or connector.type,
                "type": connector.type,
                "steps": list(dict.fromkeys(steps)),
            }
        )
    return letter_places


def merged_into_scan(plan: PhysicalPlan, stage: int, members: Collection[str]) -> bool:
    """Whether the first steps behind a source are one query with its scan: the source gives chunks, and
    the next operator is not a user's function and calls no system. members: the steps that are shown
    in the stage; operators that a stateful step runs before its exchange are shown with that step."""
    scan = plan.stages[stage]
    if scan.source is None or scan.body is None or not scan.source.capabilities().chunks:
        return False
    if scan.body.operators:
        first = scan.body.operators[0]
        return first.step in members and not first.runs_alone
    return scan.body.branch is not None and scan.body.branch.step in members


def stage_inputs(plan: PhysicalPlan, stage: int) -> Sequence[int]:
    """The stages whose rows a stage reads."""
    return sorted({edge.from_stage for edge in plan.into(stage)})
