"""Which faults a seed stands for, and which of them are needed for a failure. Pure.

Always true: the same seed and the same totals of an undisturbed run give the same faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from dataflare.sdk.injected_faults import Fault, faults_of

Attempts = tuple[tuple[Fault, ...], ...]
"""By attempt of a run, its faults. After these attempts the run goes on without any."""

_ATTEMPTS_MAX = 3
_FAULTS_MAX = 2
_KINDS = {"kill": 8, "pause": 1, "clock": 2, "full": 3, "fail": 3, "slow": 1}
"""By kind, how often it is chosen."""
_KINDS_OF_NETWORK = {"cut": 4, "hang": 2, "delay": 2}
_CLOCK_JUMPS_S = (-86_400.0, -3_600.0, -5.0, 5.0, 3_600.0, 86_400.0)
_INTERVALS = ("20ms", "100ms", "1s")
_BATCHES = (10, 100, 1_000)


class Totals(Struct, frozen=True):
    """What an undisturbed run has: places, file calls and calls to connectors; how long it takes from the first of them
    on. proxies: whether systems are reached through proxies."""

    places: int
    file_calls: int
    calls: int
    seconds: float
    proxies: bool = False


class Scenario(Struct, frozen=True):
    """settings: of the workflow, that change no result: how often a checkpoint is taken, and the sizes of batches."""

    seed: int
    settings: Mapping[str, str]
    attempts: Attempts


def drawn(seed: int, totals: Totals) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(seed)
    batch = chance.choice(_BATCHES)
    settings = {
        "checkpoint.interval": chance.choice(_INTERVALS),
        "batch": f"{{initial: {batch}, min: {min(batch, 10)}, max: {batch * 2}}}",
    }
    attempts = tuple(
        tuple(_fault(chance, totals) for _ in range(chance.randint(1, _FAULTS_MAX)))
        for _ in range(chance.randint(1, _ATTEMPTS_MAX))
    )
    return Scenario(seed, settings, attempts)


def _fault(chance: random.Random, totals: Totals) -> Fault:
    kinds = _KINDS | (_KINDS_OF_NETWORK if totals.proxies else {})
    (kind,) = chance.choices(list(kinds), list(kinds.values()))
    share = chance.random() ** 1.5
    # Early ones more often: a run that goes on has less before it.
    at_s = round(share * totals.seconds, 3)
    match kind:
        case "kill" | "pause":
            timed = chance.random() < 0.4
            at = at_s if timed else _number(share, totals.places)
            return Fault(kind, at, timed, seconds=0.0 if kind == "kill" else 0.3)
        case "clock":
            jump_s = chance.choice(_CLOCK_JUMPS_S)
            return Fault(kind, _number(share, totals.places), seconds=jump_s)
        case "full":
            return Fault(kind, _number(share, totals.file_calls), times=chance.choice((1, 2, 20)))
        case "fail":
            return Fault(kind, _number(share, totals.calls), times=chance.choice((1, 2, 5)))
        case "slow":
            number = _number(share, totals.calls)
            return Fault(kind, number, times=chance.choice((1, 5)), seconds=0.2)
        case "cut":
            return Fault(kind, at_s, timed=True)
        case "hang":
            return Fault(kind, at_s, timed=True, seconds=chance.choice((0.2, 2.0)))
    return Fault(kind, at_s, timed=True, seconds=0.05)


def _number(share: float, total: int) -> int:
    return 1 + int(share * max(total - 1, 0))


def attempts_of(text: str) -> Attempts:
    """The faults of a text such as `kill@17, full@3; kill@5`: attempts are parted by semicolons. Raises ValueError."""
    return tuple(faults_of(part) for part in text.split(";"))


def attempts_text(attempts: Attempts) -> str:
    """The text that `attempts_of` reads."""
    return "; ".join(", ".join(map(str, faults)) for faults in attempts)


def smallest(attempts: Attempts, fails: Callable[[Attempts], bool], tries_max: int) -> Attempts:
    """The attempts without the faults that are not needed: whole attempts are left out first, then single faults.

    fails: whether a run with these faults still gives the wrong result; called at most `tries_max` times.
    """
    tries = 0
    shrinks = True
    while shrinks:
        shrinks = False
        for fewer in _fewer(attempts):
            if tries == tries_max:
                return attempts
            tries += 1
            if fails(fewer):
                attempts, shrinks = fewer, True
                break
    return attempts


def _fewer(attempts: Attempts) -> Sequence[Attempts]:
    """Each way to leave something out, the largest first. At least one fault stays."""
    by_attempt = [attempts[:at] + attempts[at + 1 :] for at in range(len(attempts))]
    by_fault = [
        (*attempts[:at], faults[:place] + faults[place + 1 :], *attempts[at + 1 :])
        for at, faults in enumerate(attempts)
        if len(faults) > 1
        for place in range(len(faults))
    ]
    return [each for each in (*by_attempt, *by_fault) if each]
