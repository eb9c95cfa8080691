"""`dataflare checkpoints`: list, show, verify and delete checkpoints and savepoints."""

from __future__ import annotations

import json as json_
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dataflare.cli import answers, common, complete, human, tables, terminal
from dataflare.cli.checkpoint_history import (
    History,
    history_in,
    history_of,
    one_of,
    savepoint_facts,
    state_of_steps,
)
from dataflare.cli.usage import bad_usage
from dataflare.errors import WorkflowError

if TYPE_CHECKING:
    from dataflare.checkpoint.manifest import Manifest, SourceSnapshot
    from dataflare.checkpoint.resolve import ManifestFact
    from dataflare.checkpoint.savepoints import Savepoints
    from dataflare.model.progress import Position

_POSITION_MAX = 72


_HELP = """Checkpoints and savepoints of a workflow.

A run takes checkpoints by itself and keeps the newest ones. A savepoint is a checkpoint with a name, taken by
`dataflare savepoint`, and is kept until you delete it. Without a command this lists checkpoints.
"""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Checkpoints(TyperGroup):
    """`checkpoints`, `checkpoints WORKFLOW` and `checkpoints WORKFLOW EPOCH` mean `list` and `show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [arg for arg in args if not arg.startswith("-")]
        wants_help = bool({"--help", "-h"} & set(args))
        if not (words and words[0] in self.commands) and not (wants_help and not words):
            args = ["show" if len(words) > 1 else "list", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(name="checkpoints", help=_HELP, cls=_Checkpoints)


@app.command("list")
def list_(
    workflow: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORKFLOW]",
            help="The workflow's name.",
            show_default=False,
            autocompletion=complete.workflows,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all state; exit with 1 if any is damaged.")
    ] = False,
    json: Json = False,
) -> int:
    """List checkpoints and savepoints: their time, their size, and the positions of sources."""
    if workflow is None:
        return _list_workflows(json)
    history = history_of(workflow, thorough=verify)
    savepoints = savepoint_facts(history.savepoints, thorough=verify)
    if json:
        answers.print_json(
            [history.to_json(fact) for fact in history.facts]
            + [{"savepoint": name, **history.to_json(fact)} for name, fact in savepoints]
        )
    else:
        _print_list(workflow, history)
        _print_savepoints(history.savepoints, savepoints)
    all_facts = [*history.facts, *(fact for _, fact in savepoints)]
    return int(verify and any(not fact.usable for fact in all_facts))


@app.command("show")
def show(
    workflow: common.Name,
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[EPOCH|SAVEPOINT]",
            help="The checkpoint's number, or a savepoint's name. By default the newest checkpoint.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Exit with 1 if it is damaged.")] = False,
    json: Json = False,
) -> int:
    """Show one checkpoint or savepoint in full."""
    history = history_of(workflow, thorough=True)
    name, fact, history = one_of(workflow, history, which)
    if json:
        answers.print_json(({"savepoint": name} if name else {}) | history.to_json(fact))
    else:
        _print_one(fact, history, name)
    return int(verify and not fact.usable)


@app.command("verify")
def verify(
    workflow: common.Name,
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[EPOCH|SAVEPOINT]", help="Only this one. By default all.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Read all state of checkpoints and savepoints; exit with 1 if any is damaged."""
    history = history_of(workflow, thorough=True)
    named: list[tuple[str, ManifestFact]] = [(f"{f.epoch}", f) for f in history.facts]
    named += savepoint_facts(history.savepoints, thorough=True)
    if which is not None:
        name, fact, _ = one_of(workflow, history, which)
        named = [(name or f"{fact.epoch}", fact)]
    if json:
        answers.print_json(
            [{"name": n, "usable": fact.usable, "problem": fact.problem} for n, fact in named]
        )
    else:
        for name, fact in named:
            print(f"{name}: {'good' if fact.usable else f'damaged: {_problem(fact)}'}")
        if not named:
            print(f"workflow '{workflow}' has no checkpoint")
    return int(any(not fact.usable for _, fact in named))


@app.command("delete")
def delete(
    workflow: common.Name,
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EPOCH|SAVEPOINT]...", help="What to delete.", show_default=False),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", help="Delete all but the N newest checkpoints.", min=0),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> int:
    """Delete checkpoints or savepoints, and the state that only they refer to.

    The checkpoint that the next run resumes from is not deleted: `dataflare run FILE --fresh` starts over.
    """
    if not which and keep is None:
        raise bad_usage("name what to delete, or give --keep N", "dataflare checkpoints delete")
    from dataflare.checkpoint.lock import RunLock
    from dataflare.checkpoint.runs import utc_text

    with RunLock(common.workflow_folder(workflow), "deleting checkpoints", utc_text(time.time())):
        history = history_of(workflow, thorough=False)
        epochs = {fact.epoch for fact in history.facts[keep:]} if keep is not None else set()
        resumed = history.resumed
        if keep is not None and resumed is not None:
            epochs.discard(resumed)
        names: list[str] = []
        for each in which or ():
            name, fact, _ = one_of(workflow, history, each)
            if name is None:
                epochs.add(fact.epoch)
            else:
                names.append(name)
        if resumed in epochs:
            raise WorkflowError(
                f"the next run of '{workflow}' resumes from checkpoint {resumed}, so it is not deleted",
                code="E0122",
                help="to start over, use `dataflare run FILE --fresh`, which also cleans up in destinations",
            )
        count = len(epochs) + len(names)
        if count and not yes:
            common.ask(
                f"delete {human.counted(count, 'checkpoint')} of '{workflow}' for ever?",
                "dataflare checkpoints delete",
            )
        num_bytes = sum(history.savepoints.delete(name) for name in names if history.savepoints)
        if epochs and history.store is not None:
            num_bytes += history.store.delete(epochs)
    if json:
        answers.print_json(
            {
                "workflow": workflow,
                "deleted": sorted(epochs),
                "savepoints": names,
                "bytes": num_bytes,
            },
            indent=False,
        )
    else:
        print(f"{human.counted(count, 'checkpoint')} deleted, {human.size(num_bytes)} freed")
    return 0


def _list_workflows(json: bool) -> int:
    """One line for each workflow that has run here."""
    histories = {name: history_in(common.home() / name, False) for name in common.known_workflows()}
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
    resumed = history.resumed
    return "starts from the beginning" if resumed is None else f"resumes from checkpoint {resumed}"


def _problem(fact: ManifestFact) -> str:
    return fact.problem or "state is missing"


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
                "good" if fact.usable else f"damaged: {_problem(fact)}",
                "\n".join(_progress(manifest)) if manifest else "",
            )
        )
    columns = ("epoch", "taken", "size", "state", "sources")
    tables.print_table(columns, rows, right=("epoch", "size"))
    print()
    print(f"the next run {_state_of(history)}")


def _print_savepoints(savepoints: Savepoints | None, facts: list[tuple[str, ManifestFact]]) -> None:
    if savepoints is None or not facts:
        return
    print()
    rows = [
        (
            name,
            fact.epoch or "",
            human.moment(fact.manifest.created_at if fact.manifest else None),
            human.size(savepoints.num_bytes(name)),
            "good" if fact.usable else f"damaged: {_problem(fact)}",
        )
        for name, fact in facts
    ]
    columns = ("savepoint", "epoch", "taken", "size", "state")
    tables.print_table(columns, rows, right=("epoch", "size"))


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


def _print_one(fact: ManifestFact, history: History, savepoint: str | None) -> None:
    manifest = fact.manifest
    terminal.print_heading(
        f"savepoint {savepoint}, of checkpoint {fact.epoch}"
        if savepoint
        else f"checkpoint {fact.epoch}"
    )
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
            (step, *map(human.count, facts.values()))
            for step, facts in state_of_steps(manifest).items()
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
