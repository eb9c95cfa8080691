"""`dataflare backfill`: run a workflow once for each day, or other part, of its rows."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, human, terminal

if TYPE_CHECKING:
    from dataflare.jobs.backfill import Backfill, Report, ShardEnded


def backfill(
    file: common.File,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="VALUE", help="The first date, time or number."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VALUE", help="The one behind the last.")
    ] = None,
    shards: Annotated[
        str,
        typer.Option(
            "--shards",
            metavar="BY",
            help="hour, day, week, month, year, 6h, 10000 (numbers), hash:8, or values with commas between them.",
        ),
    ] = "day",
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="Of the source; by default the parameters from and to, or its event time or cursor.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="STEP", help="The source that is cut.")
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="How many shards run at a time.")
    ] = 1,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Begin with the last shard.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run all shards again, also those that have finished.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Run the shards that are left, although steps have changed."
        ),
    ] = False,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line for each shard.")] = False,
) -> int:
    """Run a workflow for each part of its rows. The same command again goes on with what is left.

    A shard that fails is tried three times and then set aside. The exit status is 1 if one is.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    common.require_file(file)
    from dataflare.jobs import backfill as jobs

    loading = jobs.Loading(
        file.absolute(),
        tuple(common.pairs("--param", param)),
        tuple(common.pairs("--set", sets)),
        tuple(each.absolute() for each in overlay or ()),
        env,
    )
    options = jobs.Options(
        from_,
        to,
        shards,
        source,
        column,
        parallel,
        newest_first=newest_first,
        fresh=fresh,
        accept_changes=accept_changes,
    )
    work = jobs.Backfill(loading, common.home_of(file), options)
    for warning in work.warnings:
        terminal.print_warning(warning)
    report = work.run(lambda ended: None if json or quiet else print(_line(ended), flush=True))
    for warning in report.warnings:
        terminal.print_warning(warning)
    if json:
        answers.print_json({"workflow": work.workflow.name, **report.to_json()})
    elif not quiet:
        _print_report(work, report, is_fresh=fresh)
    return report.exit_status


def _line(ended: ShardEnded) -> str:
    shard, result = ended.shard, ended.result
    what = shard.span or shard.name
    if shard.has_bounds and shard.bucket is not None:
        what += f", {shard.name}"
    if ended.state == "done":
        rows = human.counted(result.rows_out, "row")
        return f"{what}: {rows}, {human.span(result.duration_s)} ({ended.done:,} of {ended.of:,})"
    then = "set aside" if ended.state == "set_aside" else "to be tried again"
    return f"{what}: attempt {ended.attempt} failed, {then}: {result.error or result.status}"


def _print_report(work: Backfill, report: Report, *, is_fresh: bool) -> None:
    before = f", {report.before:,} of them before" if report.before else ""
    print(
        f"{report.status}: {report.done:,} of {human.counted(report.shards, 'shard')} done{before}; "
        f"{human.counted(report.rows_out, 'row')} written in {human.span(report.duration_s)}"
    )
    if report.dead_letters:
        letters = human.counted(report.dead_letters, "dead letter")
        name = work.workflow.name
        terminal.print_warning(f"{letters}: see `dataflare dlq show {name}`")
    if report.status != "finished":
        without = " without --fresh" if is_fresh else ""
        print(f"the same command{without} goes on with what is left")
