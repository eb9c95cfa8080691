"""Replay the rows of dead letters, each exactly once.

A replay takes the waiting letters, writes their rows to the folder of a batch, and runs the part of
the workflow behind them. This is a separate run, with its own lineage and checkpoints in that folder.
Each row is processed once because of the order of durable steps:

1. the batch with the ids of its letters appears atomically;
2. while there is a batch, it is resumed from its last checkpoint before another one begins;
3. after its run has finished, its ids are added to the ledger; then its folder is removed.

A row that fails again becomes a new letter, committed with the run. The old letter counts as replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct, field

from dataflare.checkpoint import files
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import Current, RunLog, learned_by, new_run_id, utc_text
from dataflare.checkpoint.store import LocalStore
from dataflare.connectors.inline.values import frame_of
from dataflare.engine.coordinator import Identity
from dataflare.errors import Blame, ConfigError, DataFlareError, RunError
from dataflare.jobs.feeds import (
    SOURCE,
    Feed,
    cannot_grow,
    destinations,
    feed_of,
    overwritten,
    reads_all,
    replaced_by_key,
    replaying,
)
from dataflare.jobs.letters import REPLAY_FOLDER, Letter, LetterBox
from dataflare.jobs.options import RunOptions
from dataflare.jobs.recovery import forget
from dataflare.jobs.replay_history import keep_runs
from dataflare.jobs.result import RunResult
from dataflare.jobs.run import run
from dataflare.jobs.unread_rows import read_rows_again
from dataflare.model.types import DataType, Schema
from dataflare.planner import RULES, plan_async
from dataflare.planner.bind import bind_workflow
from dataflare.planner.dead_letters import STEP
from dataflare.planner.event_time import stamp_of
from dataflare.planner.families import expanded
from dataflare.planner.graph import Graph, SourceNode
from dataflare.sdk.crashpoints import crash_point

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

_BATCH, _ROWS = "batch.json", "rows.parquet"


class Replayed(Struct):
    """rows: the number of replayed letters. failed: those of them that became letters again. reasons: why
    letters were not replayed, and how many. replaced: the ids of letters whose rows a later run has read
    again, so that they count as replayed. results: of each run. by_key: the destinations in which the rows took the place of
    those with their keys, also of newer ones."""

    rows: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    replaced: list[str] = field(default_factory=list)
    results: list[RunResult] = field(default_factory=list)
    by_key: list[str] = field(default_factory=list)

    @property
    def error(self) -> DataFlareError | None:
        """The error that stopped the replay."""
        return next((each.error for each in self.results if each.error is not None), None)

    @property
    def exit_status(self) -> int:
        """1 also where rows were left, or were refused again."""
        failed = next((each.exit_status for each in self.results if each.exit_status), 0)
        return failed or int(bool(self.failed or self.reasons))


def replay(workflow: Workflow, box: LetterBox, matches: Callable[[Letter], bool]) -> Replayed:
    """Replay the waiting letters for which `matches` is true. An interrupted replay is finished first, whatever
    its letters are.

    Raises RunError (E0801) while the workflow runs or is replayed, and the errors of the workflow.
    """
    state = box.folder / REPLAY_FOLDER
    files.make_folder(state)
    run_id, now = new_run_id(), utc_text(time.time())
    with RunLock(state, run_id, now), RunLock(box.folder, run_id, now):
        return _Replay(workflow, box, state).all(matches)


class _Replay:
    def __init__(self, workflow: Workflow, box: LetterBox, state: Path) -> None:
        self.workflow, self.box, self.state = workflow, box, state
        self.outcome = Replayed()

    def all(self, matches: Callable[[Letter], bool]) -> Replayed:
        for partial_folder in self.state.glob(f"{files.TEMPORARY}*"):
            shutil.rmtree(partial_folder, ignore_errors=True)
        batches = sorted(path.parent for path in self.state.glob(f"*/{_BATCH}"))
        pending = [folder for folder in batches if not self._settled(folder)]
        waiting = [letter for letter in self.box.waiting() if matches(letter)]
        if not waiting and not pending:
            return self.outcome
        learned = learned_by(self.box.folder.parent, self.workflow.name)
        self.workflow = asyncio.run(expanded(self.workflow))
        graph = asyncio.run(bind_workflow(self.workflow, learned=learned))
        for folder in pending:
            if not self._go_on(folder, graph):
                return self.outcome
        waiting = [letter for letter in self.box.waiting() if matches(letter)]
        groups = list(self._by_feed(graph, waiting))
        if self.outcome.replaced:
            self.box.mark_replayed(self.outcome.replaced)
        for feed, group in groups:
            if not self._begin(graph, feed, group):
                return self.outcome
        return self.outcome

    def _settled(self, folder: Path) -> bool:
        """Whether a batch's run has finished. If so, its ids are added to the ledger and it is removed."""
        keep_runs(folder, self.workflow.name)
        current = RunLog(folder).current()
        ids = _ids(folder)
        if (current is None or not current.finished) and not self.box.replayed().issuperset(ids):
            return False
        self.box.mark_replayed(ids)
        crash_point("replay.after_ledger")
        _remove(folder)
        return True

    def _go_on(self, folder: Path, graph: Graph) -> bool:
        """Continue an interrupted batch. A batch without a checkpoint is dropped, so that its letters are
        replayed by the current workflow. Returns False if the replay must stop."""
        current, feed = RunLog(folder).current(), _feed_of(folder)
        if current is not None:
            store = LocalStore(folder, current.lineage)
            if store.list_manifests():
                if feed.first not in graph.nodes:
                    raise RunError(
                        f"an interrupted replay continues in step '{feed.first}', which is gone",
                        code="E0803",
                        blame=Blame.USER,
                        help="name the file that has the step with --file",
                    )
                return self._run(folder, graph, feed)
            if feed.first in graph.nodes:
                with contextlib.suppress(DataFlareError):
                    part = self._part(graph, feed, folder)
                    asyncio.run(_clear(part, self.state, current, store))
        _remove(folder)
        return True

    def _by_feed(
        self, graph: Graph, letters: Sequence[Letter]
    ) -> Iterator[tuple[Feed, list[Letter]]]:
        groups: dict[str, tuple[Feed, list[Letter]]] = {}
        for letter in letters:
            feed = feed_of(graph, letter.step, letter.row)
            if isinstance(feed, str):
                self.outcome.reasons[feed] += 1
            elif not self._is_replaced(graph, feed, letter):
                groups.setdefault(feed.first, (feed, []))[1].append(letter)
        yield from groups.values()

    def _is_replaced(self, graph: Graph, feed: Feed, letter: Letter) -> bool:
        """Whether a later run has read the letter's row once more, and replaced what a destination held:
        then the row is there, or a letter of that run has it."""
        replaced = overwritten(graph, feed)
        if not replaced or letter.run_id >= self._last_run or not reads_all(graph, feed):
            return False
        if len(replaced) == len(destinations(graph, feed)):
            self.outcome.replaced.append(letter.id)
        else:
            why = f"a later run has read their rows again, and replaced what '{replaced[0]}' holds"
            self.outcome.reasons[why] += 1
        return True

    @cached_property
    def _last_run(self) -> str:
        """The id of the last run that finished; the first of its ids, if it was resumed."""
        log = RunLog(self.box.folder)
        current = log.current()
        if current is None or not current.finished:
            return ""
        last = ""
        for record in log.list():
            if record.run_id <= current.run_id:
                last = record.run_id
                if record.resumed_from is None:
                    break
        return last

    def _begin(self, graph: Graph, feed: Feed, letters: Sequence[Letter]) -> bool:
        current = RunLog(self.box.folder).current()
        replaced = overwritten(graph, feed)
        if replaced and current is not None and not current.finished:
            reason = (
                f"the unfinished run of the workflow will replace the content of '{replaced[0]}'"
            )
            self.outcome.reasons[f"{reason}: let it finish first"] += len(letters)
            return True
        fixed = cannot_grow(graph, feed)
        if fixed is not None:
            self.outcome.reasons[fixed] += len(letters)
            return True
        node = graph.nodes[feed.first]
        if isinstance(node, SourceNode):
            change = self.workflow.settings.schema_change
            again = asyncio.run(read_rows_again(node, letters, stamp_of(graph, node), change))
            self.outcome.reasons.update(again.left)
            rows = (again.letters, again.rows) if again.letters else None
        else:
            rows = self._rows(graph, feed, letters)
        if rows is None:
            return True
        folder = self.state / f"batch_{new_run_id().lower()}"
        temporary = self.state / f"{files.TEMPORARY}{folder.name}"
        with files.writing("the letters to replay"):
            files.make_folder(temporary)
            files.write_whole(temporary / _ROWS, _parquet(rows[1]))
            ids = [letter.id for letter in rows[0]]
            facts = {"first": feed.first, "ids": ids, "rows": rows[1].height}
            files.write_whole(temporary / _BATCH, json.dumps(facts).encode())
            os.rename(temporary, folder)
            files.sync_folder(self.state)
        crash_point("replay.batch_written")
        return self._run(folder, graph, feed)

    def _rows(
        self, graph: Graph, feed: Feed, letters: Sequence[Letter]
    ) -> tuple[list[Letter], pl.DataFrame] | None:
        """The letters whose rows fit the current workflow, and their rows."""
        candidates = []
        for letter in letters:
            extra = [name for name in letter.row if name not in feed.schema]
            if extra:
                self.outcome.reasons[
                    f"'{feed.first}' receives no column '{extra[0]}' any more"
                ] += 1
            else:
                candidates.append(letter)
        fitting, frames = [], []
        for letter in candidates:
            try:
                frames.append(frame_of([row_of(letter.row, feed.schema)], feed.schema, feed.first))
                fitting.append(letter)
            except ConfigError as error:
                problem = error.message.removeprefix("row 1 has ")
                self.outcome.reasons[f"a row does not fit the step '{feed.first}': {problem}"] += 1
        if not frames:
            return None
        columns_read = self._needed(graph, feed, frames[0])
        complete = []
        for letter, frame in zip(fitting, frames, strict=True):
            lacking = [name for name in columns_read if name not in letter.row]
            if lacking:
                self.outcome.reasons[
                    f"their rows lack the column '{lacking[0]}', which is read now"
                ] += 1
            else:
                complete.append((letter, frame))
        if not complete:
            return None
        return [letter for letter, _ in complete], pl.concat([frame for _, frame in complete])

    def _needed(self, graph: Graph, feed: Feed, sample: pl.DataFrame) -> tuple[str, ...]:
        """The columns that are read behind a feed."""
        temporary = self.state / f"{files.TEMPORARY}sample"
        files.make_folder(temporary)
        try:
            files.write_whole(temporary / _ROWS, _parquet(sample))
            part = self._part(graph, feed, temporary)
            bound = asyncio.run(bind_workflow(part))
            for rule in RULES:
                bound = rule(bound)
            return bound.nodes[SOURCE].schema.names
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _part(self, graph: Graph, feed: Feed, folder: Path) -> Workflow:
        letters = self.box.folder / STEP
        return replaying(self.workflow, graph, feed, folder / _ROWS, letters=letters)

    def _run(self, folder: Path, graph: Graph, feed: Feed) -> bool:
        """Run a batch. Returns whether it finished."""
        part, rows = self._part(graph, feed, folder), _facts(folder)["rows"]
        observers = [lambda watch: watch.log.writing(folder, lambda text: watch.warn([text]))]
        result = run(part, RunOptions(self.state, accept_changes=True, observers=observers))
        self.outcome.results.append(result)
        if result.status != "finished":
            keep_runs(folder, self.workflow.name)
            return False
        crash_point("replay.finished")
        steps: Mapping[str, Mapping[str, Any]] = result.steps
        self.outcome.rows += rows
        new = (name for name in replaced_by_key(graph, feed) if name not in self.outcome.by_key)
        self.outcome.by_key.extend(new)
        self.outcome.failed += sum(step.get("dead_letters") or 0 for step in steps.values())
        return self._settled(folder)


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / _BATCH).read_bytes())
    return facts


def _ids(folder: Path) -> list[str]:
    ids: list[str] = _facts(folder)["ids"]
    return ids


def _remove(folder: Path) -> None:
    """Remove a batch. Its list is removed first: a folder without one is not a batch."""
    (folder / _BATCH).unlink()
    shutil.rmtree(folder)


async def _clear(part: Workflow, home: Path, current: Current, store: LocalStore) -> None:
    """Remove the uncommitted rows of a batch from the destinations."""
    plan = await plan_async(part, home=home)
    await forget(
        plan.stages, Identity(current.lineage, current.run_id, current.attempt + 1, {}), store
    )


def _feed_of(folder: Path) -> Feed:
    return Feed(_facts(folder)["first"], Schema.from_polars(pl.read_parquet_schema(folder / _ROWS)))


def row_of(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A letter's row, where JSON has numbers as text: infinity, and whole numbers that are too long."""
    return {name: _number(value, schema[name]) for name, value in row.items()}


def _number(value: Any, type_: DataType) -> Any:
    match value:
        case str() if type_.is_float:
            return float(value)
        case str() if type_.is_integer:
            return int(value)
        case list() if type_.item is not None:
            return [_number(each, type_.item) for each in value]
        case dict() if type_.name == "struct":
            fields = {field.name: field.type for field in type_.fields}
            return {n: _number(v, fields[n]) if n in fields else v for n, v in value.items()}
    return value


def _parquet(frame: pl.DataFrame) -> bytes:
    import io

    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
