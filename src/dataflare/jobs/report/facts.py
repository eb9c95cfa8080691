"""What a report says, gathered from the files of a run.

Always true: a value of a column that a `mask` step hides anywhere in the workflow is in no report, and neither is the text
of a row that could not be read in such a workflow. Where it is not known what is hidden, every value is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from dataflare.checkpoint.runs import RunRecord
from dataflare.jobs.letters import Letter, LetterBox
from dataflare.jobs.recording import Recorded, recorded
from dataflare.observability.course import Sample, StageSample, StepSample
from dataflare.observability.times import Histogram
from dataflare.sdk.messages.letters import RAW

HIDDEN = "***"
VALUES_HIDDEN = (
    "The values of these rows are not shown: which columns are masked is not kept with this run."
)
EXAMPLES_MAX = 3
_CELL_MAX = 200

Point = tuple[float, float]
"""Seconds since the run began, and a value."""


class Failed(Struct):
    """Rows that failed in a step with one code. examples: some of them, with their reason and place."""

    step: str
    code: str
    rows: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


class Report(Struct):
    """recorded: None where the run has no course, because an older version ran it, or its course is not kept any more."""

    record: RunRecord
    recorded: Recorded | None
    failed: list[Failed]

    @property
    def shows_values(self) -> bool:
        """Whether it is known which columns are hidden. If not, examples have none of their values."""
        return self.recorded is not None and self.recorded.hidden is not None

    @property
    def duration_s(self) -> float | None:
        return None if self.recorded is None else self.recorded.view.elapsed_s

    def counts(self) -> Mapping[str, Mapping[str, Any]]:
        """By step: those of the record; of a run that has none, because it runs or was killed, the last that are known."""
        if self.recorded is None:
            return self.record.counts
        if self.record.counts:
            order = {name: place for place, name in enumerate(self.recorded.view.steps)}
            names = sorted(self.record.counts, key=lambda name: order.get(name, len(order)))
            return {name: self.record.counts[name] for name in names}
        return {
            name: {
                "rows_in": step.rows_in,
                "rows_out": step.rows_out,
                "bytes_out": step.bytes_out,
                "errors": step.errors,
                "dead_letters": step.dead_letters,
                "late": step.late,
            }
            for name, step in self.recorded.view.steps.items()
        }

    def kind_of(self, step: str) -> str:
        if self.recorded is not None and step in self.recorded.view.steps:
            return self.recorded.view.steps[step].kind
        return "source" if self.counts()[step].get("rows_in") == 0 else "transformation"

    def rates(self, kind: str) -> dict[str, list[Point]]:
        """By source or destination, rows a second over the time of the run."""

        def rows(step: StepSample) -> float | None:
            return step.rows_out if kind == "source" else step.rows_in

        names = [name for name in self._steps() if self.kind_of(name) == kind]
        return {name: points for name in names if (points := list(self._rate(name, rows)))}

    def lags(self) -> dict[str, list[Point]]:
        """By step with an event time, how far it is behind the clock."""
        found: dict[str, list[Point]] = {}
        for sample in self._samples():
            for name, step in sample.steps.items():
                if step.lag_s is not None:
                    found.setdefault(name, []).append((sample.at_s, step.lag_s))
        return found

    def latencies(self, share: float) -> dict[str, list[Point]]:
        """By destination, the latency that this share of the rows stayed below, over the time of the run."""
        found: dict[str, list[Point]] = {}
        for before, now in pairwise(self._samples()):
            for name, stage in now.stages.items():
                rows = _since(stage, before.stages.get(name))
                value = None if rows is None else rows.quantile(share)
                if value is not None:
                    found.setdefault(name, []).append((now.at_s, value))
        return found

    def shares(self, doing: Callable[[StageSample], float]) -> dict[str, list[Point]]:
        """By stage, for which share of its time it did something, over the time of the run."""
        found: dict[str, list[Point]] = {}
        for before, now in pairwise(self._samples()):
            for name, stage in now.stages.items():
                earlier = before.stages.get(name, StageSample())
                total = _total(stage) - _total(earlier)
                if total > 0:
                    share = (doing(stage) - doing(earlier)) / total
                    found.setdefault(name, []).append((now.at_s, share))
        return found

    def memory(self) -> list[Point]:
        return [(s.at_s, float(s.rss_bytes)) for s in self._samples() if s.rss_bytes is not None]

    def _samples(self) -> Sequence[Sample]:
        return self.recorded.course.samples if self.recorded is not None else []

    def _steps(self) -> Sequence[str]:
        samples = self._samples()
        return [*samples[-1].steps] if samples else []

    def _rate(self, name: str, rows: Callable[[StepSample], float | None]) -> Iterator[Point]:
        samples = self._samples()
        if samples and samples[0].at_s > 0:
            samples = [Sample(0.0), *samples]
        for before, now in pairwise(samples):
            seconds = now.at_s - before.at_s
            if name not in now.steps or seconds <= 0:
                continue
            later, earlier = rows(now.steps[name]), rows(before.steps.get(name, StepSample()))
            if later is not None and earlier is not None:
                yield now.at_s, (later - earlier) / seconds


def report_of(folder: Path, record: RunRecord) -> Report:
    """The report of a run. folder: the workflow's."""
    found = recorded(folder, record.run_id)
    places = [Path(place) for place in found.letters] if found is not None else []
    box = LetterBox(folder, places)
    letters = [letter for letter in box.letters() if letter.run_id == record.run_id]
    hidden = None if found is None or found.hidden is None else frozenset(found.hidden)
    masks = found is None or found.masks
    return Report(record, found, _failed(letters, hidden, masks=masks))


def _failed(
    letters: Sequence[Letter], hidden: frozenset[str] | None, *, masks: bool
) -> list[Failed]:
    groups: dict[tuple[str, str], Failed] = {}
    for letter in letters:
        group = groups.setdefault((letter.step, letter.code), Failed(letter.step, letter.code))
        group.rows += 1
        if len(group.examples) < EXAMPLES_MAX:
            group.examples.append(_example(letter, hidden, masks=masks))
    return [*groups.values()]


def _example(letter: Letter, hidden: frozenset[str] | None, *, masks: bool) -> dict[str, Any]:
    """hidden: None where it is not known. masks: the workflow hides columns."""
    if hidden is None or (masks and RAW in letter.row):
        row: dict[str, Any] = dict.fromkeys(letter.row, HIDDEN)
        return {"message": f"{letter.code} ({HIDDEN})", "position": letter.position, "row": row}
    message = letter.message
    for name in hidden & letter.row.keys():
        for text in _texts(letter.row[name]):
            message = message.replace(text, HIDDEN)
    row = {name: HIDDEN if name in hidden else _cell(value) for name, value in letter.row.items()}
    return {"message": message, "position": letter.position, "row": row}


def _texts(value: Any) -> Iterator[str]:
    """How a value may stand in a message."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif value is not None and (text := str(value)):
        yield text


def _cell(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _CELL_MAX:
        return value[: _CELL_MAX - 1] + "…"
    return value


def _total(stage: StageSample) -> float:
    return stage.busy_s + stage.waiting_s + stage.blocked_s


def _since(now: StageSample, before: StageSample | None) -> Histogram | None:
    if now.latency is None:
        return None
    earlier = before.latency if before is not None and before.latency else [0] * len(now.latency)
    return Histogram([a - b for a, b in zip(now.latency, earlier, strict=True)])
