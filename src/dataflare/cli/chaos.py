"""`dataflare chaos`: run a workflow many times with faults, and compare what it writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataflare.cli import answers, common, human, terminal
from dataflare.cli.usage import bad_usage

if TYPE_CHECKING:
    from dataflare.jobs.chaos import Chaos, Outcome
    from dataflare.workflow.model import Workflow


def chaos(
    file: common.File,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs with faults.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of the first run.")] = 1,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", help="Begin runs for this long, in place of --seeds."
        ),
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            "--faults",
            metavar="FAULTS",
            help="One run, with these faults and the settings of --seed: 'kill@17, full@3; kill@5'.",
        ),
    ] = None,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures alone.")] = False,
) -> int:
    """Run a workflow with faults from a seed: kills, a full disk, lost connections, jumps of the clock.

    Each run writes to throwaway copies of the destinations, which are compared with those of an undisturbed run. The
    exit status is 1 if one differs; the fewest faults that show it are printed. It is 1 too if no destination can be
    compared.
    """
    for_s = common.seconds("--for", for_, "dataflare chaos")
    if for_s is not None and for_s <= 0:
        raise bad_usage(f"--for takes a time above 0, not '{for_}'", "dataflare chaos")

    def load(more: Sequence[str]) -> Workflow:
        return common.read_workflow(file, param, [*(sets or ()), *more], overlay, env)

    workflow = load(())
    from dataflare.jobs import chaos as jobs

    try:
        attempts = None if faults is None else jobs.attempts_of(faults)
    except ValueError as error:
        raise bad_usage(f"--faults: {error}", "dataflare chaos") from None
    words = [str(file), *_options(param, sets, overlay, env)]
    with jobs.Chaos(load, jobs.Command(words, workflow.name)) as under_test:
        _print_not_compared(under_test)
        outcomes = []
        for number in [seed] if attempts is not None else _seeds(seed, seeds, for_s):
            outcome = under_test.run(number, attempts)
            outcomes.append(outcome)
            if not json and not (quiet and outcome.is_equal):
                print(_line(outcome), flush=True)
            if not outcome.is_equal:
                break
        failed = None if outcomes[-1].is_equal else outcomes[-1]
        again = "" if failed is None else _again(under_test, failed, words)
        unsteady, compared = under_test.unsteady, under_test.compared
    is_equal = failed is None and not unsteady and bool(compared)
    if json:
        answers.print_json(
            {
                "workflow": workflow.name,
                "equal": is_equal,
                "compared": list(compared),
                "not_compared": dict(under_test.not_compared),
                "undisturbed": dict(unsteady),
                "runs": [_to_json(each) for each in outcomes],
                "again": again or None,
            }
        )
    elif failed is None:
        done = sum(each.happened for each in outcomes)
        runs = human.counted(len(outcomes), "run")
        print(f"{runs} with {human.counted(done, 'fault')}: {_ended(under_test)}")
    else:
        print(f"again, with the fewest faults: {again}")
    return 0 if is_equal else 1


def _ended(under_test: Chaos) -> str:
    """What is known after runs of which none differs."""
    if not under_test.compared:
        return (
            "each came to its end, and nothing is known of its rows: no destination can be compared"
        )
    left_out = ", ".join(under_test.not_compared)
    more = f", apart from what is not compared: {left_out}" if left_out else ""
    return f"each has the rows of the undisturbed run{more}"


def _seeds(first: int, count: int, for_s: float | None) -> Iterator[int]:
    ends = None if for_s is None else time.monotonic() + for_s
    yield first
    number = first + 1
    while number < first + count if ends is None else time.monotonic() < ends:
        yield number
        number += 1


def _options(
    params: list[str] | None, sets: list[str] | None, overlays: list[Path] | None, env: str | None
) -> Iterator[str]:
    """The options of the workflow, for a run."""
    for option, values in (("--param", params), ("--set", sets), ("--overlay", overlays)):
        for value in values or ():
            yield from (option, str(value))
    if env is not None:
        yield from ("--env", env)


def _print_not_compared(under_test: Chaos) -> None:
    for name, why in under_test.not_compared.items():
        terminal.print_warning(f"{name} is not compared: {why}")
    for name, what in under_test.unsteady.items():
        terminal.print_warning(
            f"'{name}' differs between two runs without faults, the second one with small batches and many "
            f"checkpoints: {what}"
        )


def _line(outcome: Outcome) -> str:
    from dataflare.jobs.chaos import attempts_text

    scenario = outcome.scenario
    ended = "equal" if outcome.is_equal else ""
    ended += "; ".join(f"{name}: {what}" for name, what in outcome.problems.items())
    how = f"{human.counted(outcome.happened, 'fault')} in {human.counted(outcome.runs, 'attempt')}"
    return f"seed {scenario.seed}: {attempts_text(scenario.attempts)}: {how}, {outcome.seconds:.1f} s: {ended}"


def _again(under_test: Chaos, outcome: Outcome, words: Sequence[str]) -> str:
    """The command line of the fewest faults with which the run still goes wrong."""
    import shlex

    from dataflare.jobs.chaos import attempts_text

    fewest = attempts_text(under_test.smallest(outcome))
    return shlex.join(
        ["dataflare", "chaos", *words, "--seed", str(outcome.scenario.seed), "--faults", fewest]
    )


def _to_json(outcome: Outcome) -> dict[str, Any]:
    from dataflare.jobs.chaos import attempts_text

    return {
        "seed": outcome.scenario.seed,
        "faults": attempts_text(outcome.scenario.attempts),
        "settings": dict(outcome.scenario.settings),
        "happened": outcome.happened,
        "attempts": outcome.runs,
        "seconds": round(outcome.seconds, 3),
        "equal": outcome.is_equal,
        "problems": dict(outcome.problems),
    }
