"""The live view of a run: a line for the run, and a line for each source and destination.

It is removed when the run ends. The summary replaces it.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Group, JustifyMethod
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dataflare.cli import common, human, terminal
from dataflare.cli.progress import Notices

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

_PER_SECOND = 8
_STEPS_MAX = 14
_BAR = 28
_MARKS = {"source": ("○", "blue"), "destination": ("●", "green")}


class Meter:
    """Rows per second over the last few seconds, from counts that only grow."""

    def __init__(self, window_s: float = 3.0) -> None:
        self.window_s = window_s
        self.seen: deque[tuple[float, float]] = deque()

    def add(self, at_s: float, count: float) -> None:
        """Add a count. Of the counts older than the window, only the newest is kept."""
        self.seen.append((at_s, count))
        while len(self.seen) > 2 and at_s - self.seen[1][0] >= self.window_s:
            self.seen.popleft()

    @property
    def per_s(self) -> float | None:
        """The speed. None until there are two counts at different times."""
        if len(self.seen) < 2:
            return None
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return (last - first) / (end - start) if end > start else None


class LiveView(Notices):
    """Draws the latest progress. It ends when a `stdout` destination writes the first rows to the same
    terminal."""

    def __init__(self, workflow: Workflow) -> None:
        super().__init__()
        self.name = workflow.name
        self.kinds = dict.fromkeys(common.streamed_sources(workflow), "source")
        self.kinds |= dict.fromkeys(workflow.destinations, "destination")
        self.meters = {name: Meter() for name in self.kinds}
        self.latest: Any = None
        self.lock, self.over = threading.Lock(), False
        self.rows_to: TextIO | None = None
        self.live = Live(
            console=terminal.console(stderr=True),
            get_renderable=self.draw,
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self.live.start()
        if terminal.is_terminal(sys.stdout):
            self.rows_to, sys.stdout = sys.stdout, _Rows(sys.stdout, self.make_room)
        return self

    def __exit__(self, *raised: object) -> None:
        self.make_room()
        if self.rows_to is not None:
            sys.stdout = self.rows_to

    def make_room(self) -> None:
        """Remove the view from the terminal. May be called by any thread, any number of times."""
        with self.lock:
            if not self.over:
                self.over = True
                self.live.stop()

    def listen(self, progress: Any) -> None:
        for name in progress.steps.keys() - self.kinds.keys():
            family = name.partition(".")[0]
            if family in self.kinds:  # one table of a source of many
                self.kinds[name], self.meters[name] = self.kinds[family], Meter()
        for name, meter in self.meters.items():
            step = progress.steps.get(name)
            if step is not None:
                meter.add(progress.elapsed_s, _rows(self.kinds[name], step))
        self.latest = progress
        super().listen(progress)

    def note(self, message: str) -> None:
        if self.over:
            super().note(message)
        else:
            self.live.console.print(terminal.notice_line(message))

    def draw(self) -> Group:
        """The current content of the view."""
        progress = self.latest
        if progress is None:
            return Group(Text.assemble((self.name, "bold"), "  starting"))
        return Group(self._head(progress), self._steps(progress))

    def _head(self, progress: Any) -> Text:
        facts = [human.clock(progress.elapsed_s), human.rate(progress.rows_per_s)]
        if progress.checkpoints:
            duration_s = progress.last_checkpoint_s
            last = f", the last took {human.span(duration_s)}" if duration_s is not None else ""
            facts.append(f"{human.counted(progress.checkpoints, 'checkpoint')}{last}")
        if progress.watermark:
            facts.append(f"event time {progress.watermark}")
        if progress.kept_bytes:
            facts.append(f"{human.size(progress.kept_bytes)} of the log kept")
        if progress.backlog_rows:
            facts.append(f"{human.count(progress.backlog_rows)} rows behind")
        return Text.assemble((self.name, "bold"), "  ", ("  ".join(facts), "dim"))

    def _steps(self, progress: Any) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        columns: tuple[JustifyMethod, ...] = ("left", "right", "right", "right", "left")
        for justify in columns:
            table.add_column(justify=justify, no_wrap=True)
        names = [name for name in self.kinds if name in progress.steps]
        for name in names[:_STEPS_MAX]:
            table.add_row(*self._step(name, progress.steps[name]))
        if len(names) > _STEPS_MAX:
            table.add_row(Text(f"  and {len(names) - _STEPS_MAX} more", "dim"))
        return table

    def _step(self, name: str, step: Any) -> list[Any]:
        kind = self.kinds[name]
        mark, colour = _MARKS[kind]
        per_s = self.meters[name].per_s
        moved = getattr(step, "bytes_in", None)
        return [
            Text.assemble("  ", (mark, colour), " ", name),
            Text(f"{human.count(_rows(kind, step))} rows"),
            Text("done" if step.done else human.rate(per_s) if per_s is not None else "", "dim"),
            Text(human.size(moved) if moved else "", "dim"),
            _last(step, moved),
        ]


class _Rows(io.TextIOBase):
    """Standard output that removes the view from the terminal before the first row."""

    def __init__(self, stream: TextIO, make_room: Callable[[], None]) -> None:
        self._stream, self._make_room = stream, make_room

    def write(self, text: str) -> int:
        self._make_room()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _rows(kind: str, step: Any) -> float:
    if kind == "source":
        return float((step.rows_out or 0) + step.errors)
    return float(step.rows_in or 0)


def _last(step: Any, moved: float | None) -> Any:
    """A bar if the total size is known, else the number of errors, else nothing."""
    total = getattr(step, "bytes_total", None)
    if total and moved is not None and not step.done:
        return ProgressBar(
            total, min(moved, total), width=_BAR, complete_style="blue", finished_style="blue"
        )
    return Text(human.counted(step.errors, "error"), "yellow") if step.errors else Text("")
