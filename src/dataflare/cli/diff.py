"""`dataflare diff`: compare two tables of any two systems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataflare.cli import answers, common, human, tables, terminal
from dataflare.cli.usage import bad_usage
from dataflare.errors import Blame, DataFlareError

if TYPE_CHECKING:
    from dataflare.jobs.diff import Diff
    from dataflare.workflow.model import Workflow

_UNREACHED = 3
_COLUMNS_SHOWN = 10


def diff(
    left: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="FILE.yaml:STEP, a database's URL or file with #TABLE, or a file.",
            show_default=False,
        ),
    ],
    right: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="The same; :STEP is a step of the same file.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="COLUMNS", help="The columns that identify a row: id,day."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="COLUMNS", help="Compare only these, and the key."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="CONDITION", help="Compare only rows where this is true."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option("--sample", metavar="SHARE", help="Compare this share of the keys: 1%."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Show at most so many rows that differ.")
    ] = 20,
    wait: Annotated[
        str | None,
        typer.Option(
            "--wait", metavar="DURATION", help="Read rows that differ again, for so long."
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="PLACE", help="Write all rows that differ there."),
    ] = None,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    json: common.Json = False,
) -> int:
    """Compare two tables, of any two systems. Exits with 0 if they are equal, with 1 if not.

    2: the command or a file is wrong. 3: a system cannot be reached or read.
    """

    def load(file: Path) -> Workflow:
        return common.read_workflow(file, param, sets, overlay, env)

    share = _share(sample)
    wait_s = common.seconds("--wait", wait, "dataflare diff") or 0.0
    from dataflare.jobs import diff as jobs

    try:
        sides = jobs.sides(left, right, load)
        differences = jobs.Differences(into) if into is not None else None
        options = jobs.Options(
            key=_names("--key", key) or (), columns=_names("--columns", columns), where=where,
            sample=share, limit=limit, wait_s=wait_s,
            into=differences.begin if differences is not None else None,
        )  # fmt: skip
        found = jobs.diff(*sides, options)
        if differences is not None:
            differences.write()
    except DataFlareError as error:
        if error.blame in (Blame.SYSTEM, Blame.DATA):
            return _failed(error, json)
        raise
    if json:
        answers.print_json(found.to_json())
    else:
        _print(found)
    _print_unread(found)
    return 0 if found.is_equal else 1


def _failed(error: DataFlareError, json: bool) -> int:
    terminal.print_error(error)
    if json:
        answers.print_failure(error)
    return _UNREACHED


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise bad_usage(f"{option} takes names with commas between them, not '{text}'")
    return names


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if rest or not 0 < share <= 1:
        raise bad_usage(f"--sample takes a share such as 1% or 0.01, not '{text}'")
    return share


def _print(found: Diff) -> None:
    from dataflare.cli import frames

    if found.columns:
        rows = [(each.name, each.why) for each in found.columns]
        tables.print_table(("column", "not compared"), rows)
        print()
    if found.rows.width:
        frames.print_frame(found.rows, count=False)
        print()
    counts = [
        (found.only_left, f"only in {found.left}"),
        (found.only_right, f"only in {found.right}"),
        (found.different, f"different{_by_column(found)}"),
    ]
    for count, words in counts:
        if count:
            print(f"{human.counted(count, 'row')} {words}")
    compared = (
        f"{human.counted(found.left_rows, 'row')} and {human.counted(found.right_rows, 'row')}"
    )
    by = f"by {', '.join(found.key)}" if found.key else "as whole rows, because no key is known"
    word = "equal" if found.is_equal else "different"
    print(f"{word}: {compared} compared {by}{_how(found)}")


def _by_column(found: Diff) -> str:
    counts = sorted(found.by_column.items(), key=lambda each: -each[1])
    shown = ", ".join(f"{name} in {count:,}" for name, count in counts[:_COLUMNS_SHOWN])
    more = f", and {len(counts) - _COLUMNS_SHOWN} more" if len(counts) > _COLUMNS_SHOWN else ""
    return f" ({shown}{more})" if shown else ""


def _how(found: Diff) -> str:
    words = ["by checksums of the databases"] if found.checksums else []
    if found.reads > 1:
        words.append(f"read {found.reads} times")
    return f" ({', '.join(words)})" if words else ""


def _print_unread(found: Diff) -> None:
    for side, failures in found.unread.items():
        for failed in failures.values():
            label = found.left if side == "left" else found.right
            first = f"; the first: {failed.first}" if failed.first else ""
            terminal.print_warning(
                f"{human.counted(failed.rows, 'row')} of {label} could not be read, so the tables "
                f"are not known to be equal{first}"
            )
