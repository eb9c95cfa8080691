"""`dataflare checkpoints`: what a workflow would resume from, and whether it is whole."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from dataflare.cli import answers, common, complete, human, tables, terminal
from dataflare.errors import WorkflowError

if TYPE_CHECKING:
    from dataflare.checkpoint.manifest import Manifest, SourceSnapshot
    from dataflare.checkpoint.resolve import ManifestFact
    from dataflare.checkpoint.store import LocalStore
    from dataflare.model.progress import Position

_POSITION_MAX = 72


def checkpoints(
    workflow: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORKFLOW]",
            help="The workflow's name.",
            show_default=False,
            autocompletion=complete.workflows,
        ),
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Argument(metavar="[EPOCH]", help="Show this checkpoint in full.", show_default=False),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all state; exit with 1 if any is damaged.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List checkpoints: when they were taken, how large they are, where sources stood."""
    if workflow is None:
        return _list_workflows(json)
    kept = _look(workflow, thorough=verify or epoch is not None)
    shown = [fact for fact in kept.facts if epoch in (None, fact.epoch)]
    if epoch is not None and not shown:
        known = ", ".join(str(fact.epoch) for fact in kept.facts) or "none"
        raise WorkflowError(
            f"workflow '{workflow}' has no checkpoint {epoch}",
            code="E0122",
            notes=[f"its checkpoints: {known}"],
            help="name one of these, or leave the number out to list them",
        )
    if json:
        listed = [kept.to_json(fact) for fact in shown]
        answers.print_json(listed if epoch is None else listed[0])
    elif epoch is None:
        _print_list(workflow, kept)
    else:
        _print_one(shown[0], kept)
    return int(verify and any(not fact.usable for fact in shown))


class Kept(Struct, frozen=True):
    """The checkpoints of a workflow's present lineage, newest first. store: None before its first."""

    store: LocalStore | None
    facts: list[ManifestFact]
    finished: bool = False
    base_epoch: int = 0
    """Epochs up to this one belong to runs that finished."""

    def num_bytes(self, fact: ManifestFact) -> int | None:
        """What a checkpoint takes, with the state that it shares with others."""
        if self.store is None:
            return None
        from dataflare.checkpoint.resolve import manifest_name

        try:
            own = (self.store.home / manifest_name(fact.epoch)).stat().st_size
        except OSError:
            return None
        chunks = fact.manifest.chunks.values() if fact.manifest else ()
        return own + sum(chunk.num_bytes for chunk in chunks)

    def to_json(self, fact: ManifestFact) -> dict[str, Any]:
        """A checkpoint for programs."""
        made = fact.manifest
        return {
            "epoch": fact.epoch,
            "usable": fact.usable,
            "problem": fact.problem,
            "created_at": made.created_at if made else None,
            "final": made.final if made else None,
            "run_id": made.run_id if made else None,
            "lineage": made.lineage if made else None,
            "bytes": self.num_bytes(fact),
            "sources": {n: s.to_json() for n, s in made.sources.items()} if made else {},
            "state": _state(made) if made else {},
            "counters": dict(made.counters) if made else {},
        }


def _look(workflow: str, *, thorough: bool) -> Kept:
    return _kept(common.workflow_folder(workflow), thorough)


def _kept(folder: Path, thorough: bool) -> Kept:
    from dataflare.checkpoint.runs import RunLog
    from dataflare.checkpoint.store import LocalStore

    current = RunLog(folder).current()
    if current is None:
        return Kept(None, [])
    store = LocalStore(folder, current.lineage)
    return Kept(
        store, store.list_manifests(thorough=thorough), current.finished, current.base_epoch
    )


def _list_workflows(json: bool) -> int:
    """One line for each workflow that has run here."""
    found = {name: _kept(common.home() / name, False) for name in common.known_workflows()}
    if json:
        answers.print_json(
            {name: [kept.to_json(fact) for fact in kept.facts] for name, kept in found.items()}
        )
        return 0
    if not found:
        print(f"nothing has run here yet ({common.home()})")
        return 0
    rows = []
    for name, kept in found.items():
        newest = kept.facts[0] if kept.facts else None
        taken = newest.manifest.created_at if newest and newest.manifest else None
        total = kept.store.sizes().total if kept.store else None
        rows.append(
            (name, len(kept.facts), human.moment(taken), human.size(total), _state_of(kept))
        )
    columns = ("workflow", "checkpoints", "newest", "size on disk", "next run")
    tables.print_table(columns, rows, right=("checkpoints", "size on disk"))
    return 0


def _state_of(kept: Kept) -> str:
    if kept.finished:
        return "starts anew: the last one finished"
    own = [fact for fact in kept.facts if fact.epoch > kept.base_epoch]
    usable = next((fact.epoch for fact in own if fact.usable), None)
    return "starts from the beginning" if usable is None else f"resumes from checkpoint {usable}"


def _print_list(workflow: str, kept: Kept) -> None:
    if not kept.facts:
        print(f"workflow '{workflow}' has no checkpoint; its next run {_state_of(kept)}")
        return
    rows = []
    for fact in kept.facts:
        made = fact.manifest
        rows.append(
            (
                fact.epoch,
                human.moment(made.created_at if made else None),
                human.size(kept.num_bytes(fact)),
                "good" if fact.usable else f"damaged: {fact.problem or 'state is missing'}",
                "\n".join(_progress(made)) if made else "",
            )
        )
    columns = ("epoch", "taken", "size", "state", "sources")
    tables.print_table(columns, rows, right=("epoch", "size"))
    print()
    print(f"the next run {_state_of(kept)}")


def _progress(manifest: Manifest) -> Iterator[str]:
    """A line for each source: how many of its splits are read, and where in an open one."""
    for name, source in manifest.sources.items():
        states = source.all_states()
        done = sum(state.done for state in states)
        line = f"{name}: {done} of {human.counted(len(states), 'split')} read"
        opened = [state for state in states if state.position is not None and not state.done]
        if opened:
            line += f", {opened[0].split.id} at {_position(opened[0].position)}"
        yield line + (f" and {len(opened) - 1} more" if len(opened) > 1 else "")


def _position(position: Position | None) -> str:
    """Where a split has come to, its short facts first."""
    if position is None:
        return "its beginning"
    facts = sorted(position.to_json().items(), key=lambda fact: len(str(fact[1])))
    text = " ".join(f"{name}={json_.dumps(value, default=str)}" for name, value in facts)
    return text if len(text) <= _POSITION_MAX else text[: _POSITION_MAX - 1] + "…"


def _state(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Rows and bytes of state by step."""
    made = {}
    for step, snapshots in manifest.operators.items():
        chunks = [chunk for snapshot in snapshots for chunk in snapshot.chunks]
        rows, num_bytes = sum(c.rows for c in chunks), sum(c.num_bytes for c in chunks)
        made[step] = {"subtasks": len(snapshots), "rows": rows, "bytes": num_bytes}
    return made


def _print_one(fact: ManifestFact, kept: Kept) -> None:
    made = fact.manifest
    terminal.print_heading(f"checkpoint {fact.epoch}")
    print(f"state    {'good' if fact.usable else f'damaged: {fact.problem}'}")
    if made is None:
        return
    print(f"taken    {human.moment(made.created_at)} by run {made.run_id}, attempt {made.attempt}")
    print(f"size     {human.size(kept.num_bytes(fact))}")
    for name, source in made.sources.items():
        print()
        terminal.print_heading(f"source {name}")
        tables.print_table(("split", "read", "position"), _splits(source))
    if made.operators:
        print()
        rows = [(step, *map(human.count, facts.values())) for step, facts in _state(made).items()]
        columns = ("state of step", "subtasks", "rows", "bytes")
        tables.print_table(columns, rows, right=columns[1:])
    if made.committables:
        print()
        rows_ = [(step, len(each)) for step, each in made.committables.items()]
        tables.print_table(("destination", "parts to publish"), rows_, right=("parts to publish",))


def _splits(source: SourceSnapshot) -> Iterator[tuple[str, str, str]]:
    for state in source.all_states():
        read = "whole" if state.done else ("in part" if state.position else "no")
        yield state.split.id, read, _position(state.position) if state.position else ""
