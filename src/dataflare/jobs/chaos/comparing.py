"""Compare what two runs wrote: each destination that can be read back, and the dead letters.

Always true: floats are compared to 12 digits, because a sum depends on the order in which batches came; all other values
are compared exactly.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from dataflare.checkpoint.files import workflow_folder
from dataflare.errors import DataFlareError
from dataflare.jobs.diff import Diff, Options, diff
from dataflare.jobs.diff.columns import LEFT, RIGHT
from dataflare.jobs.diff.places import Side, side
from dataflare.jobs.diff.reading import opened
from dataflare.jobs.letters import LetterBox, letter_places
from dataflare.planner.families import expanded
from dataflare.workflow.model import Workflow

DIGITS = 12
DEAD_LETTERS = "dead letters"
_FILE = Path("undisturbed")


class Written(Struct, frozen=True):
    """What a run wrote. workflow: as it ran, with a step for each table. home: of its state."""

    workflow: Workflow
    home: Path

    @classmethod
    def by(cls, workflow: Workflow, home: Path) -> Written:
        return cls(asyncio.run(expanded(workflow)), home)

    def side(self, destination: str, name: str) -> Side:
        return side(f":{destination}", name, lambda _: self.workflow, str(_FILE))

    def letters(self) -> Counter[tuple[str, str, str]]:
        """The dead letters, without what each run has of its own."""
        places, _ = letter_places(self.workflow)
        box = LetterBox(workflow_folder(self.home, self.workflow.name), places)
        return Counter(
            (each.step, each.code, json.dumps(each.row, sort_keys=True, default=str))
            for each in box.letters()
        )


class Comparable(Struct, frozen=True):
    """What of the destinations is compared. columns: by destination, those that are compared; None: all of them.
    not_compared: by destination, or by destination and column, why not."""

    columns: Mapping[str, tuple[str, ...] | None]
    not_compared: Mapping[str, str] = field(default_factory=dict)
    letters: bool = True


def comparable(first: Written, second: Written) -> tuple[Comparable, dict[str, str]]:
    """What is compared, of a workflow that ran twice without faults; and by destination, in what the two differ: columns
    that differ, such as one with `now()`, are not compared, but rows that differ without them are told."""
    columns: dict[str, tuple[str, ...] | None] = {}
    not_compared: dict[str, str] = {}
    different: dict[str, str] = {}
    for name in first.workflow.destinations:
        try:
            found = _diff(first, second, name, None)
            columns[name] = None
            if not found.is_equal:
                columns[name] = _equal_columns(first, second, name)
                other = sorted(_names(first, name) - set(columns[name] or ()))
                for column in other:
                    not_compared[f"{name}.{column}"] = "it differs between undisturbed runs"
                again = _diff(first, second, name, columns[name]) if columns[name] else found
                if not again.is_equal:
                    different[name] = in_words(again)
        except DataFlareError as error:
            columns.pop(name, None)
            not_compared[name] = error.message
    letters = first.letters() == second.letters()
    if not letters:
        not_compared[DEAD_LETTERS] = "they differ between undisturbed runs"
    return Comparable(columns, not_compared, letters), different


def differences(expected: Written, actual: Written, what: Comparable) -> dict[str, str]:
    """By destination, in what a run differs from the undisturbed one. Empty if it does not."""
    found = {}
    for name, columns in what.columns.items():
        try:
            each = _diff(expected, actual, name, columns)
        except DataFlareError as error:
            found[name] = f"it cannot be read: {error.message}"
        else:
            if not each.is_equal:
                found[name] = in_words(each)
    if what.letters:
        left, right = expected.letters(), actual.letters()
        if left != right:
            found[DEAD_LETTERS] = (
                f"{(left - right).total()} missing, {(right - left).total()} that the undisturbed run does not have"
            )
    return found


def in_words(found: Diff) -> str:
    """How many rows differ."""
    words = [
        f"{count:,} {what}"
        for count, what in (
            (found.only_left, "missing"),
            (found.only_right, "too many"),
            (found.different, "different"),
            (len(found.columns), "columns that only one has"),
            (len(found.unread), "sides with rows that cannot be read"),
        )
        if count
    ]
    return f"{', '.join(words)}, of {found.left_rows:,} rows"


def _diff(left: Written, right: Written, name: str, columns: tuple[str, ...] | None) -> Diff:
    options = Options(columns=columns, digits=DIGITS, limit=3)
    return diff(left.side(name, LEFT), right.side(name, RIGHT), options)


def _names(written: Written, name: str) -> set[str]:
    """The columns of a destination."""
    reading = asyncio.run(opened(written.side(name, LEFT), None))
    return set(reading.schema.names)


def _equal_columns(first: Written, second: Written, name: str) -> tuple[str, ...]:
    """The columns in which two runs do not differ, each by itself."""
    return tuple(
        column
        for column in sorted(_names(first, name))
        if _diff(first, second, name, (column,)).is_equal
    )
