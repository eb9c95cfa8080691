"""What a run answers at its door."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from dataflare.engine.taps import Tap
from dataflare.errors import RunError
from dataflare.jobs.failures import as_dataflare_error
from dataflare.jobs.tapping import rate_of
from dataflare.jobs.watching import NO_ROWS, Watch
from dataflare.observability.door import open_door
from dataflare.security.shown_rows import rows_without_secrets

_SILENT_S, _PAUSE_S = 1.0, 0.1


def _rows(watch: Watch, tap: Tap) -> Generator[Mapping[str, Any]]:
    """The rows of a look, until its attempt ends or the caller has gone."""
    try:
        for frame in tap.rows(_SILENT_S):
            if frame is None:
                yield {}  # so that a caller that has gone is noticed
                continue
            for row in rows_without_secrets(frame, watch.redacted):
                yield {"row": row}
        if tap.error is not None:
            raise as_dataflare_error(tap.error)
    finally:
        with contextlib.suppress(TimeoutError, RuntimeError):  # the run has ended
            watch.untap(tap)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


@contextlib.contextmanager
def door_of(watch: Watch, home: Path) -> Iterator[None]:
    """An observer of a run (see `RunOptions`): it answers `status`, `top`, `tap`, `loglevel`, `scale` and `stop`."""

    def view(_: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        yield watch.ask().to_json()

    def tap(asked: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        per_s = rate_of(asked.get("per_s", 10))
        while not watch.has_ended:
            try:
                made = watch.tap(str(asked["step"]), asked.get("where"), per_s)
            except RunError as error:
                if error.code != NO_ROWS:
                    raise
                yield {}  # between two attempts
                time.sleep(_PAUSE_S)
                continue
            yield from _rows(watch, made)

    def level(asked: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        if asked.get("level") is not None:
            watch.log.set_level(str(asked.get("component") or ""), str(asked["level"]))
        yield {"levels": dict(watch.log.levels)}

    def scale(asked: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        answer = watch.scale(_number(asked.get("workers")), _number(asked.get("parallelism")))
        while not answer.done():
            wait([answer], _SILENT_S)
            yield {}  # it takes as long as the checkpoint, and the workers that are placed
        yield answer.result().to_json()

    def stop(_: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        watch.on_loop(watch.interrupt)
        yield {"run_id": watch.run_id}

    answers = {"view": view, "tap": tap, "level": level, "scale": scale, "stop": stop}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(open_door(home / watch.workflow.name, answers))
        except OSError as error:
            reason = error.strerror or error
            watch.warn(
                [f"status, top and tap cannot look at this run: no socket in its folder: {reason}"]
            )
        yield
