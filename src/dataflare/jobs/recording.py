"""The record of a run's course, for its report: sampled while it runs, and written into the workflow's folder.

Always true: a run never fails for it, and never waits for it before its end; a file has a bounded size, and at most
`_KEPT` files of a workflow are kept.
"""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from msgspec import Struct, field

from dataflare.checkpoint import files
from dataflare.errors import DataFlareError
from dataflare.jobs.living_runs import alive
from dataflare.jobs.schema_history import note_schemas
from dataflare.observability.course import CheckpointSample, Course, sample_of
from dataflare.observability.resources import this_process
from dataflare.observability.view import RunView
from dataflare.planner.column_lineage import unmasked
from dataflare.sdk.threads import in_thread
from dataflare.security.redact import redact_all

if TYPE_CHECKING:
    from dataflare.jobs.result import RunResult
    from dataflare.jobs.watching import Watch
    from dataflare.planner import Plan

FOLDER = "courses"
_KEPT = 100
_PLAN_MAX = 2 << 20
"""The drawing of a larger plan, as JSON, is left out."""
_WRITE_S, _WRITE_SHARE = 10.0, 20
"""It is written so often at first, and then each time when so many samples have come."""
_SPACED_S = 0.5
"""All runs of a process together write one so often. To write one takes some 10 ms of CPU."""


class Recorded(Struct, kw_only=True):
    """What the file of a run has. view: of its last moment. plan: as `plan --format json`; None where it is too large.
    hidden: the columns whose values `mask` steps hide; None where they are not known. letters: files and folders with its dead letters."""

    version: int = 1
    view: RunView
    course: Course
    plan: dict[str, Any] | None = None
    hidden: list[str] | None = None
    masks: bool = True
    letters: list[str] = field(default_factory=list)
    slowest: str | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recorded(folder: Path, run_id: str) -> Recorded | None:
    """The record of a run in a workflow's folder; None where there is none, or it cannot be read."""
    try:
        text = gzip.decompress((folder / FOLDER / f"{run_id}.json.gz").read_bytes())
        return msgspec.json.decode(text, type=Recorded)
    except (OSError, EOFError, msgspec.DecodeError):
        return None


class Recorder:
    """Of one run. folder: the workflow's; nothing is written without one."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.folder: Path | None = None
        self.course = Course()
        self._noted: Plan | None = None
        self._unnoted: tuple[Plan, int] | None = None
        self._noting: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._next_write_s = max(_WRITE_S, _SPACED_S * alive())
        self._is_told = False

    def look(self) -> None:
        """Called a few times a second, on the loop of the run."""
        self._look_for_commit()
        at_s = self._watch.elapsed_s
        if not self.course.is_due(at_s):
            return
        self._sample(at_s)
        if at_s >= self._next_write_s and (self._writing is None or self._writing.done()):
            pause_s = max(_WRITE_S, _WRITE_SHARE * self.course.every_s, _SPACED_S * alive())
            self._next_write_s = at_s + pause_s
            self._writing = asyncio.ensure_future(self._kept(self._record()))

    def writes_with(self, plan: Plan) -> None:
        """From now on this plan writes. Its schemas are kept once an epoch is committed: a run that fails before has
        written nothing with them."""
        self._look_for_commit()
        self._watch.plan = plan
        self._unnoted = plan, self._watch.metrics.committed_epochs

    def _look_for_commit(self) -> None:
        if self._unnoted is not None and self._watch.metrics.committed_epochs > self._unnoted[1]:
            self._noting = asyncio.ensure_future(self._note(self._unnoted[0], self._noting))
            self._unnoted = None

    async def note_schemas(self, plan: Plan) -> None:
        """Keep the schemas that the destinations were written with."""
        self._unnoted = None
        await self._note(plan, self._noting)

    async def _note(self, plan: Plan, before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        if self.folder is None or plan is self._noted:
            return
        self._noted = plan
        try:
            await in_thread(note_schemas, self.folder, plan, self._watch.run_id)
        except (OSError, DataFlareError) as error:
            text = error.message if isinstance(error, DataFlareError) else str(error)
            self._watch.warn([f"the schemas of destinations are not kept: {text}"])

    async def end(self, result: RunResult) -> None:
        """Write it once more. Adds a warning where it could not be written."""
        self._look_for_commit()
        if begun := [each for each in (self._writing, self._noting) if each is not None]:
            await asyncio.wait(begun)
        self._sample(self._watch.elapsed_s)
        record = self._record()
        record.slowest, record.notes = result.slowest, [*result.notes]
        record.warnings = [*result.warnings]
        await self._kept(record)

    async def _kept(self, record: Recorded) -> None:
        """Write it. Warns where it could not be written, once in a run."""
        failure = await in_thread(self._write, record)
        if failure is not None and not self._is_told:
            self._is_told = True
            told = f"the course of this run is not kept: {failure}"
            self._watch.warn([self._watch.redacted(told)])

    def _sample(self, at_s: float) -> None:
        watch = self._watch
        checkpoints = watch.metrics.checkpoints
        stages = watch.metrics.times.stages()
        view = watch.step_views()
        self.course.add(
            sample_of(at_s, watch.started_at + at_s, view, stages, this_process().rss_bytes)
        )
        if checkpoints.last_epoch is not None and checkpoints.last_s is not None:
            ended_s = (checkpoints.ended_at or 0.0) - watch.started_at
            self.course.add_checkpoint(
                CheckpointSample(
                    checkpoints.last_epoch,
                    round(max(0.0, ended_s), 3),
                    round(checkpoints.last_s, 6),
                    checkpoints.last_bytes,
                )
            )

    def _record(self) -> Recorded:
        return Recorded(
            view=self._watch.view(),
            course=self.course.copy(),
            warnings=self._watch.warnings.shown(),
        )

    def _write(self, record: Recorded) -> str | None:
        """Gives why it could not be written."""
        if self.folder is None:
            return None
        try:
            name = f"{record.view.run_id}.json.gz"
            _keep(self.folder / FOLDER, name, self._encoded(record, self.folder))
        except Exception as error:  # a run goes on, whatever becomes of its report
            return f"{type(error).__name__}: {error}"
        return None

    def _encoded(self, record: Recorded, folder: Path) -> bytes:
        plan = self._watch.plan
        from dataflare.jobs.letters import LetterBox, letter_places

        record.letters = [
            str(place) for place in LetterBox(folder, letter_places(self._watch.workflow)[0]).places
        ]
        if plan is not None:
            record.hidden, record.masks = hidden_columns(plan)
            shown = orjson.dumps(plan.view(), option=orjson.OPT_NON_STR_KEYS)
            if len(shown) <= _PLAN_MAX:
                record.plan = orjson.loads(shown)
        values = msgspec.to_builtins(record, enc_hook=_plain)
        return gzip.compress(msgspec.json.encode(redact_all(values)), 5)


def _keep(folder: Path, name: str, data: bytes) -> None:
    """Write a file, and delete the oldest ones. Run ids sort by time."""
    files.make_folder(folder)
    temporary = folder / f"{files.TEMPORARY}{os.getpid()}-{name}"
    with files.open_private(temporary) as file:
        file.write(data)
    temporary.replace(folder / name)
    for old in sorted(folder.glob("[0-9A-Z]*.json.gz"))[:-_KEPT]:
        old.unlink(missing_ok=True)


def _plain(value: Any) -> str:
    """Texts of the workflow's file are of a class of their own."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"a course has no {type(value).__name__}")


def hidden_columns(plan: Plan) -> tuple[list[str], bool]:
    """The columns whose values `mask` steps hide, wherever they are open, and whether there are such steps."""
    masks = {step.name for step in plan.workflow.transformations.values() if step.type == "mask"}
    if not masks:
        return [], False
    return sorted(set().union(*unmasked(plan.written, plan.graph, masks).values())), True
