"""Faults with a time: when their clock begins, and what is counted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflare.sdk import injected_faults
from dataflare.sdk.injected_faults import HAPPENED, PLACES, InjectedFaults, faults_of, read_counts


class _Timers:
    """Takes the place of `threading.Timer`. due: what was asked for, as seconds and call."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, act: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        self.due.append((seconds, lambda: act(*arguments)))
        return self

    def start(self) -> None: ...


def test_a_fault_with_a_time_happens_so_long_after_the_first_thing_that_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers, signals = _Timers(), list[tuple[int, int]]()
    monkeypatch.setattr(injected_faults.threading, "Timer", timers)
    monkeypatch.setattr(injected_faults.os, "kill", lambda *to: signals.append(to))
    faults = InjectedFaults(faults_of("kill@0.5s, pause@0.2s:1, cut@0.1s"), tmp_path / "counts")
    assert timers.due == []
    for _ in range(2):
        faults.at_place("a")
    assert [seconds for seconds, _ in timers.due] == [0.5, 0.2]  # a proxy does the third
    assert signals == []
    for _, act in timers.due:
        act()
    assert signals == [(os.getpid(), signal.SIGKILL), (os.getpid(), signal.SIGSTOP)]
    counts = read_counts(tmp_path / "counts")
    assert (counts[PLACES], counts[HAPPENED]) == (2, 2)
