"""Random workflows over files of rows that are out of order, some late and some bad. What they give depends on the rows
alone, and not on what is read together."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MEASURES = '{n: "count(*)", total: "sum(amount)", most: "max(amount)"}'
USERS = [["a"], ["a", "b", "c"], [f"user {n}" for n in range(30)]]


class Draft:
    """A workflow that is being drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.steps: list[str] = []
        self.ends: list[str] = []

    def step(self, type_: str, inputs: str, config: str) -> str:
        name = f"s{len(self.steps)}"
        self.steps.append(f"{name}: {{type: {type_}, inputs: [{inputs}], config: {{{config}}}}}")
        return name

    def end(self, port: str, *, key: str | None = None) -> None:
        """A destination: a folder of files, or a table of the last row of each key."""
        name = f"e{len(self.ends)}"
        if key is not None:
            config = f"type: sqlite, config: {{path: out/{name}.sqlite, table: t, mode: upsert, key: [{key}]}}"
        else:
            format_ = self.chance.choice(["ndjson", "csv", "parquet"])
            config = f"type: file, config: {{path: out/{name}/, format: {format_}}}"
        self.ends.append(f"{name}: {{{config}, inputs: [{port}]}}")

    def window(self, port: str) -> None:
        chance = self.chance
        size = chance.choice([1, 2, 5, 10, 60])
        kinds = {
            "tumbling": f"size: {size}s",
            "sliding": f"size: {size * 3}s, slide: {size}s",
            "session": f"gap: {size}s",
        }
        kind = chance.choice([*kinds])
        group = chance.choice(["user", "user", ""])
        lateness = chance.choice([0, 0, 5, 30]) if kind != "session" else 0
        parts = [f"kind: {kind}", kinds[kind], f"group_by: [{group}]", f"measures: {MEASURES}"]
        if lateness:
            parts.append(f"allowed_lateness: {lateness}s")
        step = self.step("window", port, ", ".join(parts))
        names = ["window_start", "window_end", *([group] if group else [])]
        self.end(step, key=", ".join(names) if lateness else None)
        if chance.random() < 0.7:
            self.end(f"{step}.late")

    def rows(self, port: str) -> str:
        """A step that gives rows with the same columns."""
        chance = self.chance
        modulo = chance.choice([2, 3, 7])
        steps = [
            ("filter", f'condition: "id % {modulo} <> 0"'),
            ("map", f'derive: {{amount: "amount * {modulo} - id % 5"}}'),
            (
                "map",
                f'derive: {{amount: "100 * amount / (id % {modulo})"}}, cast: {{amount: int64}}',
            ),
            ("validate", f'rules: [{{name: small, expect: "amount < {chance.choice([50, 90])}"}}]'),
            ("deduplicate", "key: [id]"),
        ]
        type_, config = chance.choice(steps)
        return self.step(type_, port, config)

    def branch(self, port: str) -> None:
        for _ in range(self.chance.randrange(3)):
            port = self.rows(port)
        match self.chance.choice(["window", "window", "aggregate", "first", "rows", "join"]):
            case "window":
                self.window(port)
            case "aggregate":
                made = self.step("aggregate", port, f"group_by: [user], measures: {MEASURES}")
                self.end(made, key="user")
            case "first":
                config = "key: [user], keep: first, order_by: [at, id]"
                self.end(self.step("deduplicate", port, config), key="user")
            case "join":
                sums = self.step("aggregate", port, 'group_by: [user], measures: {n: "count(*)"}')
                both = self.step("join", f"{port}, {sums}", "kind: inner, on: [user]")
                self.end(both, key="id")
            case _:
                self.end(port)


def write(seed: int, folder: Path) -> str:
    """Write the files of a seed into `folder`/in. Gives the workflow."""
    draft = Draft(seed)
    chance = draft.chance
    users, pace = chance.choice(USERS), chance.choice([0.05, 0.5, 3.0])
    disorder, slack = chance.choice([0, 2, 20]), chance.choice([0, 2, 10])
    bad = chance.choice([0.0, 0.02])
    (folder / "in").mkdir(parents=True)
    number = 0
    for part in range(chance.randint(1, 7)):
        lines, clock = ["id,user,amount,at"], 0.0
        for _ in range(chance.choice([0, 5, 200, 2000])):
            clock += chance.random() * pace
            at = BEGIN + timedelta(seconds=clock - chance.random() * disorder)
            amount = "bad" if chance.random() < bad else str(chance.randint(-5, 100))
            lines.append(f"{number},{chance.choice(users)},{amount},{at.isoformat()}")
            number += 1
        (folder / "in" / f"{part}.csv").write_text("\n".join(lines) + "\n")
    for _ in range(chance.randint(1, 3)):
        draft.branch("rows")
    steps, ends = ("\n".join(f"  {line}" for line in each) for each in (draft.steps, draft.ends))
    interval = chance.choice(["20ms", "200ms", "10s"])
    return f"""\
name: timed
settings:
  mode: streaming
  parallelism: {chance.randint(2, 5)}
  checkpoint: {{interval: {interval}}}
  error_handling: {{on_error: dead_letter}}
sources:
  rows:
    type: file
    config: {{path: in/*.csv}}
    schema: {{id: int64, user: string, amount: int64, at: "timestamp[us, UTC]"}}
    event_time: {{column: at, out_of_orderness: {slack}s}}
{f"transformations:{chr(10)}{steps}" if steps else ""}
destinations:
{ends}
"""
