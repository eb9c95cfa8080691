"""Counts per step of one run. Counted per batch, never per row.

Always true: `errors`, `dead_letters`, `late` and `late_in_part` are exact; a row count that fusion or pushdown makes
unknowable becomes None and stays None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from dataflare.model.event_time import moment_of
from dataflare.observability.times import JobTimes, RuleCount, TaskTimes
from dataflare.observability.view import CheckpointView, WorkerView
from dataflare.sdk.max_errors import too_many_errors

_SHARE_FROM_ROWS = 10_000


class LeftOut(Struct):
    """A field that a source's columns lack. place: of the first row that has a value there."""

    rows: int
    place: str


class StepMetrics(Struct):
    """rows_in and rows_out: None once unknowable. watermark_us: the least event time that is still expected,
    where it is known. late_unread: by output, those late rows that no step reads. late_in_part: rows that came too late for
    some of their windows only. degraded: rows for which it gave less than it should, as it says itself. diverted: by destination, rows that went there instead. taken_back: rows that
    were counted in rows_out, and that the system refused later. refused: those errors that a
    destination's system gave; ending: those that ended the run. tasks and ended: its parallel copies. left_out: by path, the fields that
    its columns lack. shares: by rule of which a share may be broken, how many rows were. kept_bytes: how much of a log its server keeps for it, where that is known."""

    kind: str = "transformation"
    rows_in: int | None = 0
    rows_out: int | None = 0
    bytes_out: int = 0
    errors: int = 0
    refused: int = 0
    ending: int = 0
    dead_letters: int = 0
    late: int = 0
    late_in_part: int = 0
    degraded: int = 0
    diverted: dict[str, int] = field(default_factory=dict)
    taken_back: int = 0
    seconds: float = 0.0
    tasks: int = 0
    ended: int = 0
    watermark_us: int | None = None
    kept_bytes: int | None = None
    late_unread: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    shares: dict[str, RuleCount] = field(default_factory=dict)

    def add_share(self, rule: str, count: RuleCount) -> None:
        self.shares.setdefault(rule, RuleCount()).add(count.rows, count.broken)

    def leave_out(self, path: str, found: LeftOut) -> None:
        before = self.left_out.setdefault(path, LeftOut(0, found.place))
        before.rows += found.rows

    def warn(self, warnings: Mapping[str, int]) -> None:
        """Add warnings, with the number of rows that each is about."""
        for warning, rows in warnings.items():
            self.warnings[warning] = self.warnings.get(warning, 0) + rows

    def add(self, other: StepMetrics) -> None:
        """Add the counts of another task."""
        self.add_in(other.rows_in)
        self.add_out(other.rows_out, other.bytes_out)
        self.errors += other.errors
        self.refused += other.refused
        self.ending += other.ending
        self.dead_letters += other.dead_letters
        self.late += other.late
        self.late_in_part += other.late_in_part
        self.degraded += other.degraded
        for to, rows in other.diverted.items():
            self.diverted[to] = self.diverted.get(to, 0) + rows
        self.taken_back += other.taken_back
        for output, rows in other.late_unread.items():
            self.late_unread[output] = self.late_unread.get(output, 0) + rows
        self.seconds += other.seconds
        self.tasks += other.tasks
        self.ended += other.ended
        marks = [m for m in (self.watermark_us, other.watermark_us) if m is not None]
        self.watermark_us = min(marks, default=None)
        if other.kept_bytes is not None:
            self.kept_bytes = other.kept_bytes
        self.warn(other.warnings)
        for path, found in other.left_out.items():
            self.leave_out(path, found)
        for rule, count in other.shares.items():
            self.add_share(rule, count)

    def less(self, other: StepMetrics) -> StepMetrics:
        """What was counted beside the counts of `other`, which are a part of these. Without what is not a count."""

        def beside(all_: int | None, part: int | None) -> int | None:
            return None if all_ is None or part is None else all_ - part

        def each_beside(all_: Mapping[str, int], part: Mapping[str, int]) -> dict[str, int]:
            return {name: rows - part.get(name, 0) for name, rows in all_.items()}

        return StepMetrics(
            self.kind,
            beside(self.rows_in, other.rows_in),
            beside(self.rows_out, other.rows_out),
            self.bytes_out - other.bytes_out,
            self.errors - other.errors,
            self.refused - other.refused,
            self.ending - other.ending,
            self.dead_letters - other.dead_letters,
            self.late - other.late,
            self.late_in_part - other.late_in_part,
            self.degraded - other.degraded,
            each_beside(self.diverted, other.diverted),
            self.taken_back - other.taken_back,
            self.seconds - other.seconds,
            late_unread=each_beside(self.late_unread, other.late_unread),
            warnings=each_beside(self.warnings, other.warnings),
            left_out={
                path: LeftOut(found.rows - before.rows, found.place)
                for path, found in self.left_out.items()
                for before in (other.left_out.get(path, LeftOut(0, "")),)
            },
            shares={
                rule: RuleCount(count.rows - before.rows, count.broken - before.broken)
                for rule, count in self.shares.items()
                for before in (other.shares.get(rule, RuleCount()),)
            },
        )

    def copy(self) -> StepMetrics:
        """The same counts, which stay as they are."""
        copied = StepMetrics(self.kind)
        copied.add(self)
        return copied

    @property
    def done(self) -> bool:
        """Whether every copy has come to its end."""
        return self.tasks > 0 and self.ended >= self.tasks

    def add_in(self, rows: int | None) -> None:
        self.rows_in = None if rows is None or self.rows_in is None else self.rows_in + rows

    def add_rows(self, rows_in: int | None, rows_out: int | None) -> None:
        """Both at once; called for each step of each batch."""
        before_in, before_out = self.rows_in, self.rows_out
        self.rows_in = None if rows_in is None or before_in is None else before_in + rows_in
        self.rows_out = None if rows_out is None or before_out is None else before_out + rows_out

    def add_out(self, rows: int | None, num_bytes: int = 0) -> None:
        self.rows_out = None if rows is None or self.rows_out is None else self.rows_out + rows
        self.bytes_out += num_bytes

    def take_back(self, rows: int) -> None:
        """Rows that were counted did not go out."""
        self.add_out(-rows)
        self.taken_back += rows

    def to_json(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if self.watermark_us is not None:
            known["watermark"] = rfc3339(self.watermark_us)
        if self.kept_bytes is not None:
            known["kept_bytes"] = self.kept_bytes
        if self.late_in_part:
            known["late_in_part"] = self.late_in_part
        if self.degraded:
            known["degraded"] = self.degraded
        if self.diverted:
            known["diverted"] = dict(self.diverted)
        return {
            **known,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "bytes_out": self.bytes_out,
            "errors": self.errors,
            "dead_letters": self.dead_letters,
            "late": self.late,
        }


class TaskMetrics:
    """What one task counted in its attempt. `cut` keeps the counts of an epoch: what the task lets out
    after its answer belongs to the next one. times: where its time goes."""

    def __init__(self, kinds: Mapping[str, str], times: TaskTimes | None = None) -> None:
        self._kinds = kinds
        self.times = times or TaskTimes()
        self.counts: dict[str, StepMetrics] = {}
        self.cuts: dict[int, dict[str, StepMetrics]] = {}

    def step(self, name: str) -> StepMetrics:
        """The task's counts of a step."""
        found = self.counts.get(name)
        if found is None:
            kind = self._kinds.get(name, "destination")
            found = self.counts[name] = StepMetrics(kind)
        return found

    def cut(self, epoch: int) -> None:
        """The task has answered for an epoch."""
        self.cuts = {epoch: {name: step.copy() for name, step in self.counts.items()}}


class JobMetrics:
    """All steps of a run, by name: what was committed, and what the tasks of this attempt counted."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self.errors_max: dict[str, int | float] = {}
        self.judges: list[Callable[[bool], None]] = []
        self.degraded: dict[str, str] = {}
        """By step that gives less than it should at this moment, why."""
        self.memory_share = 1.0
        self.memory_short: str | None = None
        """Of the tasks, how many may compute at once; and why fewer may."""
        self.workers: dict[str, WorkerView] = {}
        """By name, the other processes that run tasks at this moment."""
        self.committed_epochs = 0
        self._committed: dict[str, StepMetrics] = {}
        self._base: dict[str, StepMetrics] = {}
        self._published: tuple[int, dict[str, StepMetrics]] | None = None
        self._own = TaskMetrics(kinds)
        self._beside = [self._own]
        self._tasks = [self._own]
        self._left_out_before: dict[str, int] = {}
        self.times = JobTimes()
        self.checkpoints = CheckpointView()
        self._undone: dict[str, StepMetrics] = {}
        self._ended_by: str | None = None

    @property
    def kinds(self) -> Mapping[str, str]:
        """By step, its kind."""
        return self._kinds

    @property
    def beside(self) -> Mapping[str, StepMetrics]:
        """The counts that belong to no task."""
        return self._own.counts

    @property
    def steps(self) -> dict[str, StepMetrics]:
        """The counts by step as they are now, rows on their way included."""
        return self._with_end(self._sum(task.counts for task in self._tasks))

    def end_by_row(self, step: str) -> None:
        """A row that failed in this step has ended the run. It is counted, whatever else is taken back."""
        self._ended_by = step

    def _with_end(self, total: dict[str, StepMetrics]) -> dict[str, StepMetrics]:
        if self._ended_by in total:
            total[self._ended_by].errors += 1
            total[self._ended_by].ending = 1
        return total

    def add_steps(self, others: JobMetrics) -> None:
        """Steps that came while the run goes on."""
        self._kinds |= others._kinds
        self.errors_max |= others.errors_max

    def add_streams(self, streams: Mapping[str, str]) -> None:
        """Count the rows of streams beside those of their source. streams: by the name that they are counted under, the
        source."""
        for stream, source in streams.items():
            self._kinds[stream] = "source"
            if source in self.errors_max:
                self.errors_max[stream] = self.errors_max[source]

    def step(self, name: str) -> StepMetrics:
        """The counts of a step that belong to no task."""
        return self._own.step(name)

    def of_task(self, stage: str) -> TaskMetrics:
        """The counts of one more task of this attempt."""
        self._tasks.append(TaskMetrics(self._kinds, self.times.of_task(stage)))
        return self._tasks[-1]

    def of_no_task(self) -> TaskMetrics:
        """Counts of another process that belong to no task of it."""
        self._beside.append(TaskMetrics(self._kinds))
        self._tasks.append(self._beside[-1])
        return self._beside[-1]

    @property
    def processed(self) -> dict[str, StepMetrics]:
        """The counts by step of all attempts, also of what failed and was done again, or was refused later. They only
        grow."""
        total = self._with_end(self._processed())
        for step in total.values():
            if step.taken_back:
                step.add_out(step.taken_back)
        return total

    def _processed(self) -> dict[str, StepMetrics]:
        return self._sum([*(task.counts for task in self._tasks), self._undone])

    def warnings(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """The warnings of steps that have some. A step may come several times."""
        for part in (self._base, *(task.counts for task in self._tasks)):
            for name, step in part.items():
                if step.warnings and name in self._kinds:
                    yield name, step.warnings

    @property
    def follows_logs(self) -> bool:
        """Whether a server has said how much of its log it keeps for a source."""
        parts = (task.counts.values() for task in self._tasks)
        return any(s.kept_bytes is not None for p in (self._base.values(), *parts) for s in p)

    def publish(self, epoch: int) -> None:
        """An epoch will happen: keep what its tasks had counted by then."""
        # What belongs to no task (the rows of lookup tables) is counted again by the next attempt.
        tasks = (task for task in self._tasks if task not in self._beside)
        kept = self._sum(task.cuts.get(epoch, task.counts) for task in tasks)
        self._published = epoch, {name: step.copy() for name, step in kept.items()}

    def commit(self, epoch: int) -> None:
        """An epoch is committed: what its tasks had counted stays, whatever comes."""
        published = self._published
        if published is not None and published[0] == epoch and self._committed is not published[1]:
            self._committed = published[1]
            self.committed_epochs += 1

    def committed_us(self) -> dict[str, int]:
        """By step, up to which event time all of its rows are committed, where that is known."""
        return {
            name: step.watermark_us
            for name, step in self._committed.items()
            if step.watermark_us is not None
        }

    def begin(self, epoch: int, left_out: Mapping[str, int] | None = None) -> None:
        """An attempt begins after this epoch. left_out: what the manifest of the epoch says."""
        self.degraded.clear()
        self.commit(epoch)
        self.rewind()
        counted = _left_out(self._base)
        self._left_out_before = {
            name: rows - counted.get(name, 0) for name, rows in (left_out or {}).items()
        }

    def left_out(self, epoch: int) -> dict[str, int]:
        """By step, how many rows of the run failed before they came to a destination's system, by the end
        of this epoch: a resumed run counts those of its earlier processes too."""
        published = self._published
        if published is not None and published[0] == epoch:
            total, own = _left_out(published[1]), _left_out(self._own.counts)
        else:
            total, own = _left_out(self.steps), {}
        for more in (self._left_out_before, own):
            for name, rows in more.items():
                total[name] = total.get(name, 0) + rows
        return {name: rows for name, rows in total.items() if rows > 0}

    def rewind(self, keep: Collection[str] = ()) -> None:
        """An attempt has ended: forget what it did not commit. keep: the steps whose rows are outside
        as soon as they are written."""
        now = self._sum(task.counts for task in self._tasks)
        kept = {name: step for name, step in now.items() if name in keep}
        self._go_back({name: step.copy() for name, step in (self._committed | kept).items()})

    def start_over(self) -> None:
        """Forget all counts: what was counted is taken back."""
        self._committed, self._published = {}, None
        self._go_back({})

    def _go_back(self, base: dict[str, StepMetrics]) -> None:
        processed = self._processed()
        self._undone = {
            name: step.less(base[name]) if name in base else step
            for name, step in processed.items()
        }
        self._base = base
        self._own = TaskMetrics(self._kinds)
        self._beside = [self._own]
        self._tasks = [self._own]
        self.times.end_attempt()
        for step in (*self._base.values(), *self._undone.values()):
            step.tasks = step.ended = 0

    def _sum(self, parts: Iterable[Mapping[str, StepMetrics]]) -> dict[str, StepMetrics]:
        total = {name: StepMetrics(kind) for name, kind in self._kinds.items()}
        for part in (self._base, *parts):
            for name, step in part.items():
                if name in total:  # those of stages that no user wrote are not told
                    total[name].add(step)
        return total

    def check_errors(self, *, final: bool = False) -> None:
        """Raise DataError (E0530) for a step with more failed rows than `max_errors` allows. A share is
        judged from 10,000 rows on, and at the end of the input. And what `judges` raise."""
        for judge in self.judges:
            judge(final)
        steps = self.steps if self.errors_max else {}
        for name, most in self.errors_max.items():
            step = steps[name]
            seen = max(step.rows_in or 0, (step.rows_out or 0) + step.errors)
            allowed = most if isinstance(most, int) else most * seen
            if isinstance(most, float) and seen < _SHARE_FROM_ROWS and not final:
                continue
            if step.errors > allowed:
                shown = (
                    f"{most:,}" if isinstance(most, int) else f"{most * 100:.3g}% of {seen:,} rows"
                )
                raise too_many_errors(name, step.errors, shown)

    def to_json(self) -> dict[str, Any]:
        return {name: step.to_json() for name, step in self.steps.items()}


def rfc3339(event_time_us: int) -> str:
    """A time in microseconds as a text, to the second."""
    return f"{moment_of(event_time_us).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _left_out(steps: Mapping[str, StepMetrics]) -> dict[str, int]:
    return {name: step.errors - step.refused for name, step in steps.items()}
