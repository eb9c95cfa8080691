"""Decide which checkpoint a run resumes from, and which files may go. Pure: no storage, no clock.

Always true:
- epochs grow by one inside a lineage; a manifest that cannot be trusted whole is not used at all;
- nothing resumes behind a destination that cannot go back: it would write rows twice;
- what a retained manifest names is never deletable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.checkpoint.manifest import Damaged, Manifest
from dataflare.errors import CheckpointError
from dataflare.sdk.destination import Marker

MISSING = "it is missing"
"""The problem of a checkpoint that was published and is not there."""

_MANIFEST = re.compile(r"manifest-([0-9]{10})\.json", re.ASCII)
_REDO = re.compile(r"([0-9]{1,18})[-.].*", re.ASCII | re.DOTALL)


class ManifestFact(Struct, frozen=True):
    """What was found under one epoch. problem: why it cannot be used, for people, or None.
    chunks_ok: every state chunk it names was there and whole."""

    epoch: int
    manifest: Manifest | None
    problem: str | None = None
    chunks_ok: bool = True

    @property
    def usable(self) -> bool:
        return self.manifest is not None and self.problem is None and self.chunks_ok


class Resume(Struct, frozen=True):
    """Go on from `manifest`. skipped: newer ones that cannot be used, and why.
    from_destination: it was found beside a destination's rows, not in the store."""

    manifest: Manifest
    skipped: tuple[tuple[int, str], ...] = ()
    from_destination: bool = False


class StartOver(Struct, frozen=True):
    """Nothing is remembered: begin at the beginning."""


class Refuse(Struct, frozen=True):
    """Going on would lose or double rows."""

    error: CheckpointError


Decision = Resume | StartOver | Refuse


def decide_resume(
    found: Sequence[ManifestFact],
    markers: Mapping[str, Marker | None],
    kept: Mapping[str, ManifestFact] | None = None,
) -> Decision:
    """What a run of an unfinished lineage starts from.

    found: what the store holds, in any order. markers: the last epoch each destination holds.
    kept: the manifest that each marker carries, as the store judged it (`Storage.judge`); without
    it those that need no state chunks are judged here, and others are not trusted.
    """
    if kept is None:
        kept = {step: judge_marker(marker) for step, marker in markers.items() if marker}
    beside = [
        kept[step]
        for step, marker in markers.items()
        if marker and step in kept and kept[step].epoch == marker.epoch and kept[step].usable
    ]
    candidates = [(fact, False) for fact in found if fact.usable]
    candidates += [(fact, True) for fact in beside]
    best = max(candidates, key=lambda each: (each[0].epoch, not each[1]), default=None)
    if best is None and found:
        return Refuse(_none_usable(found))
    epoch = best[0].epoch if best else 0
    ahead = {
        step: marker
        for step, marker in markers.items()
        if marker and marker.epoch > epoch and not marker.can_rewind
    }
    if ahead:
        return Refuse(_marker_ahead(ahead, epoch, found))
    if best is None:
        return StartOver()
    fact, from_destination = best
    assert fact.manifest is not None
    skipped = tuple(
        (other.epoch, _problem(other))
        for other in sorted(found, key=lambda each: -each.epoch)
        if other.epoch >= epoch and not other.usable
    )
    return Resume(fact.manifest, skipped, from_destination)


def with_missing(
    found: Sequence[ManifestFact], base_epoch: int, last_epoch: int
) -> list[ManifestFact]:
    """The checkpoints of the unfinished run: those after `base_epoch`, and the last one that was
    published (`last_epoch`) as a fact of its own when it is not there."""
    own = [fact for fact in found if fact.epoch > base_epoch]
    if last_epoch > base_epoch and all(fact.epoch < last_epoch for fact in own):
        own.append(ManifestFact(last_epoch, None, MISSING, False))
    return sorted(own, key=lambda fact: -fact.epoch)


def judge_marker(marker: Marker) -> ManifestFact:
    """The manifest that a marker carries, without looking at a store: one that needs state chunks
    is not trusted."""
    if marker.manifest is None:
        return ManifestFact(marker.epoch, None, "the destination keeps no manifest", False)
    try:
        manifest = Manifest.from_text(marker.manifest)
    except Damaged as error:
        return ManifestFact(marker.epoch, None, error.what, False)
    return ManifestFact(manifest.epoch, manifest, None, not manifest.chunks)


def next_epoch(decision: Resume | StartOver) -> int:
    """The number of the first epoch after `decision`."""
    return decision.manifest.epoch + 1 if isinstance(decision, Resume) else 1


def retained(manifests: Iterable[Manifest], count: int) -> list[Manifest]:
    """The `count` newest, at least one, newest first."""
    return sorted(manifests, key=lambda each: -each.epoch)[: max(1, count)]


def deletable(
    keep: Sequence[Manifest], names: Iterable[str], *, unpublished: Iterable[str] = ()
) -> set[str]:
    """The names that no resume can need any more.

    keep: the retained manifests; with none, nothing may go. names: relative to the lineage's
    folder: `manifest-N.json`, `chunks/NAME`, `redo/STEP/FILE`. unpublished: names of chunks written
    for a manifest still to come.

    The name of a redo file begins with its epoch and '-'. It goes when that is older than all
    retained manifests and none of them names it; one that says no epoch stays.
    """
    if not keep:
        return set()
    oldest = min(manifest.epoch for manifest in keep)
    named = {f"chunks/{name}" for name in unpublished}
    for manifest in keep:
        named |= {f"chunks/{name}" for name in manifest.chunks}
        named |= _redo_named(manifest)
    return {name for name in names if name not in named and _is_past(name, oldest)}


def _is_past(name: str, oldest: int) -> bool:
    """Whether a file is useless unless a retained manifest names it."""
    kind, _, rest = name.partition("/")
    if kind == "chunks":
        return True
    epoch = redo_epoch(rest.rpartition("/")[2]) if kind == "redo" else manifest_epoch(name)
    return epoch is not None and epoch < oldest


def _redo_named(manifest: Manifest) -> set[str]:
    """Every text in a committable might be the name of a redo file."""
    named = set()
    for step, committables in manifest.committables.items():
        waiting: list[Any] = [committable.data for committable in committables]
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                named.add(f"redo/{step}/{value.rpartition('/')[2]}")
            elif isinstance(value, Mapping):
                waiting.extend(value.values())
            elif isinstance(value, Sequence):
                waiting.extend(value)
    return named


def manifest_name(epoch: int) -> str:
    """The file name of an epoch's manifest."""
    return f"manifest-{epoch:010d}.json"


def manifest_epoch(name: str) -> int | None:
    """The epoch in a manifest's file name, or None."""
    match = _MANIFEST.fullmatch(name)
    return int(match[1]) if match else None


def redo_epoch(name: str) -> int | None:
    """The epoch that a redo file's name begins with, or None."""
    match = _REDO.fullmatch(name)
    return int(match[1]) if match else None


def _problem(fact: ManifestFact) -> str:
    if fact.problem:
        return fact.problem
    return "a part of the state is missing or damaged"


def _none_usable(found: Sequence[ManifestFact]) -> CheckpointError:
    return CheckpointError(
        "no checkpoint of the last run can be read",
        code="E0701",
        notes=[f"epoch {each.epoch}: {_problem(each)}" for each in _newest_first(found)],
        help="restore the checkpoint folder from a backup, or start over with --fresh",
    )


def _marker_ahead(
    ahead: Mapping[str, Marker], epoch: int, found: Sequence[ManifestFact]
) -> CheckpointError:
    newest = f"the newest usable checkpoint is epoch {epoch}" if epoch else "there is no checkpoint"
    steps = ", ".join(f"'{step}'" for step in ahead)
    return CheckpointError(
        f"{newest}, but what destination {steps} holds is newer and cannot be taken back: "
        "resuming would write rows twice",
        code="E0702",
        notes=[
            *(f"destination '{step}' holds epoch {marker.epoch}" for step, marker in ahead.items()),
            *(
                f"epoch {each.epoch}: {_problem(each)}"
                for each in _newest_first(found)
                if not each.usable
            ),
        ],
        help="restore the checkpoint folder from a backup, "
        "or clean the destination and start over with --fresh",
    )


def _newest_first(found: Sequence[ManifestFact]) -> list[ManifestFact]:
    return sorted(found, key=lambda each: -each.epoch)
