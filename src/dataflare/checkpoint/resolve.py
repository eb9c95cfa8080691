"""Decide which checkpoint a run resumes from, and which files may be deleted. Pure: no I/O, no clock.

Always true:
- epochs grow by one inside a lineage; a manifest with a damaged part is not used at all;
- a run never resumes from an epoch before that of a destination that cannot rewind, because it would
  write rows twice;
- a file that a retained manifest refers to is never deletable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.checkpoint.files import check_step
from dataflare.checkpoint.manifest import Damaged, Manifest
from dataflare.errors import CheckpointError
from dataflare.sdk.destination import Committable, Marker

MISSING = "it is missing"
"""The problem of a checkpoint that was published and whose file is gone."""

_MANIFEST = re.compile(r"manifest-([0-9]{10})\.json", re.ASCII)
_REDO = re.compile(r"([0-9]{1,18})[-.].*", re.ASCII | re.DOTALL)


class ManifestFact(Struct, frozen=True):
    """What the store has for one epoch. problem: why it cannot be used, to show to the user, or None.
    chunks_ok: every state chunk of the manifest exists and is complete."""

    epoch: int
    manifest: Manifest | None
    problem: str | None = None
    chunks_ok: bool = True

    @property
    def usable(self) -> bool:
        return self.manifest is not None and self.problem is None and self.chunks_ok


class Resume(Struct, frozen=True):
    """Resume from `manifest`. skipped: newer epochs that cannot be used, and why. from_destination: the
    manifest comes from a destination's marker and not from the store."""

    manifest: Manifest
    skipped: tuple[tuple[int, str], ...] = ()
    from_destination: bool = False


class StartOver(Struct, frozen=True):
    """There is no checkpoint: start from the beginning."""


class Refuse(Struct, frozen=True):
    """Do not run, because rows would be lost or written twice."""

    error: CheckpointError


Decision = Resume | StartOver | Refuse


def decide_resume(
    stored: Sequence[ManifestFact],
    markers: Mapping[str, Marker | None],
    marker_facts: Mapping[str, ManifestFact] | None = None,
) -> Decision:
    """Decide what a run of an unfinished lineage starts from.

    stored: the manifests in the store, in any order. markers: by destination, its last epoch.
    marker_facts: by destination, the manifest in its marker, as `Storage.judge` returned it. If it is
    None, a manifest without state chunks is trusted, and others are not.
    """
    if marker_facts is None:
        marker_facts = {step: judge_marker(marker) for step, marker in markers.items() if marker}
    usable_markers = [
        marker_facts[step]
        for step, marker in markers.items()
        if marker
        and step in marker_facts
        and marker_facts[step].epoch == marker.epoch
        and marker_facts[step].usable
    ]
    candidates = [(fact, False) for fact in stored if fact.usable]
    candidates += [(fact, True) for fact in usable_markers]
    best = max(candidates, key=lambda each: (each[0].epoch, not each[1]), default=None)
    if best is None and stored:
        return Refuse(_none_usable(stored))
    epoch = best[0].epoch if best else 0
    ahead = {
        step: marker
        for step, marker in markers.items()
        if marker and marker.epoch > epoch and not marker.can_rewind
    }
    if ahead:
        return Refuse(_marker_ahead(ahead, epoch, stored))
    if best is None:
        return StartOver()
    fact, from_destination = best
    assert fact.manifest is not None
    skipped = tuple(
        (other.epoch, _problem(other))
        for other in sorted(stored, key=lambda each: -each.epoch)
        if other.epoch >= epoch and not other.usable
    )
    return Resume(fact.manifest, skipped, from_destination)


def with_missing(
    stored: Sequence[ManifestFact], base_epoch: int, last_epoch: int
) -> list[ManifestFact]:
    """The checkpoints of the unfinished run: those after `base_epoch`. If the last published one
    (`last_epoch`) is not in the store, a fact with the problem MISSING is added for it."""
    run_facts = [fact for fact in stored if fact.epoch > base_epoch]
    if last_epoch > base_epoch and all(fact.epoch < last_epoch for fact in run_facts):
        run_facts.append(ManifestFact(last_epoch, None, MISSING, False))
    return sorted(run_facts, key=lambda fact: -fact.epoch)


def judge_marker(marker: Marker) -> ManifestFact:
    """Judge the manifest in a marker without a store. A manifest with state chunks is not trusted,
    because only the store can check them."""
    if marker.manifest is None:
        return ManifestFact(marker.epoch, None, "the destination stores no manifest", False)
    try:
        manifest = Manifest.from_text(marker.manifest)
    except Damaged as error:
        return ManifestFact(marker.epoch, None, error.problem, False)
    return ManifestFact(manifest.epoch, manifest, None, not manifest.chunks)


def retained(manifests: Iterable[Manifest], count: int) -> list[Manifest]:
    """The `count` newest, at least one, newest first."""
    return sorted(manifests, key=lambda each: -each.epoch)[: max(1, count)]


def deletable(
    keep: Sequence[Manifest], names: Iterable[str], *, unpublished: Iterable[str] = ()
) -> set[str]:
    """The names of files that no resume can need.

    keep: the retained manifests; if there are none, no file is deletable. names: relative to the
    lineage's folder: `manifest-N.json`, `chunks/NAME`, `redo/STEP/FILE`. unpublished: names of chunks
    that were written for the next manifest.

    The name of a redo file begins with its epoch and '-'. The file is deletable if the epoch is older
    than all retained manifests and none of them refers to it. A file without an epoch is kept.
    """
    if not keep:
        return set()
    oldest = min(manifest.epoch for manifest in keep)
    referenced = {f"chunks/{name}" for name in unpublished}
    for manifest in keep:
        referenced |= {f"chunks/{name}" for name in manifest.chunks}
        referenced |= redo_names(manifest)
    return {name for name in names if name not in referenced and _is_past(name, oldest)}


def _is_past(name: str, oldest: int) -> bool:
    """Whether a file can be deleted unless a retained manifest refers to it."""
    kind, _, path = name.partition("/")
    if kind == "chunks":
        return True
    epoch = redo_epoch(path.rpartition("/")[2]) if kind == "redo" else manifest_epoch(name)
    return epoch is not None and epoch < oldest


def redo_names(manifest: Manifest) -> set[str]:
    """The redo files that a manifest may refer to: each text in a committable may be such a name."""
    return {
        name
        for step, committables in manifest.committables.items()
        for name in redo_names_of(step, committables)
    }


def redo_names_of(step: str, committables: Iterable[Committable]) -> set[str]:
    """As `redo_names`, of some committables of a step."""
    folder, names = check_step(step), set()
    unread: list[Any] = [committable.data for committable in committables]
    while unread:
        value = unread.pop()
        if isinstance(value, str):
            names.add(f"redo/{folder}/{value.rpartition('/')[2]}")
        elif isinstance(value, Mapping):
            unread.extend(value.values())
        elif isinstance(value, Sequence):
            unread.extend(value)
    return names


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


def _none_usable(facts: Sequence[ManifestFact]) -> CheckpointError:
    return CheckpointError(
        "no checkpoint of the last run can be read",
        code="E0701",
        notes=[f"checkpoint {each.epoch}: {_problem(each)}" for each in _newest_first(facts)],
        help="restore the checkpoint folder from a backup, or start over with --fresh",
    )


def _marker_ahead(
    ahead: Mapping[str, Marker], epoch: int, stored: Sequence[ManifestFact]
) -> CheckpointError:
    steps = ", ".join(f"'{step}'" for step in ahead)
    damaged = [each for each in _newest_first(stored) if not each.usable and each.epoch > epoch]
    notes = [
        *(
            f"destination '{step}' holds checkpoint {marker.epoch}"
            for step, marker in ahead.items()
        ),
        *(f"checkpoint {each.epoch}: {_problem(each)}" for each in damaged[1:]),
    ]
    if damaged:
        first = damaged[0]
        other = f"checkpoint {epoch} is older" if epoch else "there is no older one"
        return CheckpointError(
            f"checkpoint {first.epoch} ({manifest_name(first.epoch)}) cannot be used: {_problem(first)}; {other}, and "
            f"destination {steps} holds newer rows, which cannot be undone: to resume would write rows twice",
            code="E0702",
            notes=notes,
            help="restore this file from a backup of the checkpoint folder, "
            "or clean the destination and start over with --fresh",
        )
    newest = f"the newest usable checkpoint is {epoch}" if epoch else "there is no checkpoint"
    return CheckpointError(
        f"{newest}, but destination {steps} holds newer rows, which cannot be undone: to resume would write rows twice",
        code="E0702",
        notes=notes,
        help="restore the checkpoint folder from a backup, "
        "or clean the destination and start over with --fresh",
    )


def _newest_first(facts: Sequence[ManifestFact]) -> list[ManifestFact]:
    return sorted(facts, key=lambda each: -each.epoch)
