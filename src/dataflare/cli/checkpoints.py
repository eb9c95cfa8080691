"""`dataflare checkpoints`: the checkpoints of a workflow, and whether they are complete."""

from __future__ import annotations

import contextlib
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
    """List checkpoints: their time, their size, and the positions of sources."""
    if workflow is None:
        return _list_workflows(json)
    history = _history_of(workflow, thorough=verify or epoch is not None)
    facts = [fact for fact in history.facts if epoch in (None, fact.epoch)]
    if epoch is not None and not facts:
        epochs = ", ".join(str(fact.epoch) for fact in history.facts) or "none"
        raise WorkflowError(
            f"workflow '{workflow}' has no checkpoint {epoch}",
            code="E0122",
            notes=[f"its checkpoints: {epochs}"],
            help="name one of these, or leave the number out to list them",
        )
    if json:
        listed = [history.to_json(fact) for fact in facts]
        answers.print_json(listed if epoch is None else listed[0])
    elif epoch is None:
        _print_list(workflow, history)
    else:
        _print_one(facts[0], history)
    return int(verify and any(not fact.usable for fact in facts))


class History(Struct, frozen=True):
    """The checkpoints of a workflow's current lineage, newest first. store: None before its first run."""

    store: LocalStore | None
    facts: list[ManifestFact]
    finished: bool = False
    base_epoch: int = 0
    """Epochs up to this one belong to runs that finished."""

    def num_bytes(self, fact: ManifestFact) -> int | None:
        """The size of a checkpoint, with the state that it shares with others."""
        if self.store is None:
            return None
        from dataflare.checkpoint.resolve import manifest_name

        try:
            manifest_bytes = (self.store.home / manifest_name(fact.epoch)).stat().st_size
        except OSError:
            return None
        chunks = fact.manifest.chunks.values() if fact.manifest else ()
        return manifest_bytes + sum(chunk.num_bytes for chunk in chunks)

    def source(self, snapshot: SourceSnapshot) -> SourceSnapshot:
        """A source of a checkpoint, with the parts that are in chunks where these can be read."""
        from dataflare.checkpoint.source_record import read_source
        from dataflare.errors import CheckpointError

        if self.store is None:
            return snapshot
        with contextlib.suppress(CheckpointError):
            return read_source(self.store, snapshot)
        return snapshot

    def to_json(self, fact: ManifestFact) -> dict[str, Any]:
        """A checkpoint as JSON."""
        manifest = fact.manifest
        return {
            "epoch": fact.epoch,
            "usable": fact.usable,
            "problem": fact.problem,
            "created_at": manifest.created_at if manifest else None,
            "final": manifest.final if manifest else None,
            "run_id": manifest.run_id if manifest else None,
            "lineage": manifest.lineage if manifest else None,
            "bytes": self.num_bytes(fact),
            "sources": {n: self.source(s).to_json() for n, s in manifest.sources.items()}
            if manifest
            else {},
            "state": _state(manifest) if manifest else {},
            "counters": dict(manifest.counters) if manifest else {},
        }


def _history_of(workflow: str, *, thorough: bool) -> History:
    return _history_in(common.workflow_folder(workflow), thorough)


def _history_in(folder: Path, thorough: bool) -> History:
    from dataflare.checkpoint.runs import RunLog
    from dataflare.checkpoint.store import LocalStore

    current = RunLog(folder).current()
    if current is None:
        return History(None, [])
    store = LocalStore(folder, current.lineage)
    return History(
        store, store.list_manifests(thorough=thorough), current.finished, current.base_epoch
    )


def _list_workflows(json: bool) -> int:
    """One line for each workflow that has run here."""
    histories = {
        name: _history_in(common.home() / name, False) for name in common.known_workflows()
    }
    if json:
        answers.print_json(
            {
                name: [history.to_json(fact) for fact in history.facts]
                for name, history in histories.items()
            }
        )
        return 0
    if not histories:
        print(f"nothing has run here yet ({common.home()})")
        return 0
    rows = []
    for name, history in histories.items():
        newest = history.facts[0] if history.facts else None
        created_at = newest.manifest.created_at if newest and newest.manifest else None
        total = history.store.sizes().total if history.store else None
        rows.append(
            (
                name,
                len(history.facts),
                human.moment(created_at),
                human.size(total),
                _state_of(history),
            )
        )
    columns = ("workflow", "checkpoints", "newest", "size on disk", "next run")
    tables.print_table(columns, rows, right=("checkpoints", "size on disk"))
    return 0


def _state_of(history: History) -> str:
    if history.finished:
        return "starts anew: the last one finished"
    run_facts = [fact for fact in history.facts if fact.epoch > history.base_epoch]
    usable = next((fact.epoch for fact in run_facts if fact.usable), None)
    return "starts from the beginning" if usable is None else f"resumes from checkpoint {usable}"


def _print_list(workflow: str, history: History) -> None:
    if not history.facts:
        print(f"workflow '{workflow}' has no checkpoint; its next run {_state_of(history)}")
        return
    rows = []
    for fact in history.facts:
        manifest = fact.manifest
        rows.append(
            (
                fact.epoch,
                human.moment(manifest.created_at if manifest else None),
                human.size(history.num_bytes(fact)),
                "good" if fact.usable else f"damaged: {fact.problem or 'state is missing'}",
                "\n".join(_progress(manifest)) if manifest else "",
            )
        )
    columns = ("epoch", "taken", "size", "state", "sources")
    tables.print_table(columns, rows, right=("epoch", "size"))
    print()
    print(f"the next run {_state_of(history)}")


def _progress(manifest: Manifest) -> Iterator[str]:
    """A line for each source: how many of its splits are read, and the position in an open one."""
    for name, source in manifest.sources.items():
        read_splits, splits = source.counts()
        line = f"{name}: {read_splits:,} of {human.counted(splits, 'split')} read"
        states = source.states.values()
        opened = [state for state in states if state.position is not None and not state.done]
        if opened:
            line += f", {opened[0].split.id} at {_position(opened[0].position)}"
        yield line + (f" and {len(opened) - 1} more" if len(opened) > 1 else "")


def _position(position: Position | None) -> str:
    """The position in a split, short facts first."""
    if position is None:
        return "its beginning"
    facts = sorted(position.to_json().items(), key=lambda fact: len(str(fact[1])))
    text = " ".join(f"{name}={json_.dumps(value, default=str)}" for name, value in facts)
    return text if len(text) <= _POSITION_MAX else text[: _POSITION_MAX - 1] + "…"


def _state(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Rows and bytes of state by step."""
    state = {}
    for step, snapshots in manifest.operators.items():
        chunks = [chunk for snapshot in snapshots for chunk in snapshot.chunks]
        rows, num_bytes = sum(c.rows for c in chunks), sum(c.num_bytes for c in chunks)
        state[step] = {"subtasks": len(snapshots), "rows": rows, "bytes": num_bytes}
    return state


def _print_one(fact: ManifestFact, history: History) -> None:
    manifest = fact.manifest
    terminal.print_heading(f"checkpoint {fact.epoch}")
    print(f"state    {'good' if fact.usable else f'damaged: {fact.problem}'}")
    if manifest is None:
        return
    print(
        f"taken    {human.moment(manifest.created_at)} by run {manifest.run_id}, attempt {manifest.attempt}"
    )
    print(f"size     {human.size(history.num_bytes(fact))}")
    for name, source in manifest.sources.items():
        print()
        terminal.print_heading(f"source {name}")
        tables.print_table(("split", "read", "position"), _splits(history.source(source)))
    if manifest.operators:
        print()
        rows = [
            (step, *map(human.count, facts.values())) for step, facts in _state(manifest).items()
        ]
        columns = ("state of step", "subtasks", "rows", "bytes")
        tables.print_table(columns, rows, right=columns[1:])
    if manifest.committables:
        print()
        rows_ = [(step, len(each)) for step, each in manifest.committables.items()]
        tables.print_table(("destination", "parts to publish"), rows_, right=("parts to publish",))


def _splits(source: SourceSnapshot) -> Iterator[tuple[str, str, str]]:
    states = source.states.values() if source.stored is not None else source.all_states()
    for state in states:
        read = "completely" if state.done else ("partly" if state.position else "no")
        yield state.split.id, read, _position(state.position) if state.position else ""
