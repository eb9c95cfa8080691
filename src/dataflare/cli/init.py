"""`dataflare init`: create a small project that runs, with data and tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from dataflare.cli import answers, common, terminal
from dataflare.cli.usage import bad_usage

_WORKFLOW = """\
name: {name}
description: Paid orders with the name of their country, and what each country spent

params:
  least: {{type: "decimal(10, 2)", default: "0"}}      # dataflare run workflow.yaml --param least=100

settings:
  error_handling: {{on_error: dead_letter}}             # see: dataflare dlq list {name}

sources:
  orders:
    type: file
    config: {{path: data/orders.csv}}
    schema: {{id: int64, country: string, amount: "decimal(10, 2)", status: string, ordered_at: "timestamp[us, UTC]"}}
  countries:
    type: file
    config: {{path: data/countries.csv}}
    schema: {{code: string, name: string}}

transformations:
  paid:
    type: filter
    inputs: [orders]
    config: {{condition: "status == 'paid' AND amount >= ${{param:least}}"}}
  named:
    type: lookup
    inputs: [paid]
    config:
      source: countries
      mapping: {{key: country, remote_key: code, fields: {{country_name: name}}}}
  spent:
    type: aggregate
    inputs: [named]
    config:
      group_by: [country_name]
      measures: {{orders: "count(*)", total: "sum(amount)"}}

destinations:
  paid_orders:
    type: file
    inputs: [named]
    config: {{path: out/paid_orders.csv}}
  by_country:
    type: file
    inputs: [spent]
    config: {{path: out/by_country.csv}}

tests:
  - name: only paid orders arrive, with the name of their country
    given:
      orders:
        - {{id: 1, country: DE, amount: 10, status: paid}}
        - {{id: 2, country: DE, amount: 20, status: open}}
        - {{id: 3, country: XX, amount: 30, status: paid}}
      countries:
        - {{code: DE, name: Germany}}
    expect:
      paid_orders:
        - {{id: 1, country_name: Germany}}
        - {{id: 3, country_name: null}}

  - name: what a country spent is the sum of its paid orders
    given:
      orders:
        - {{id: 1, country: DE, amount: 10.50, status: paid}}
        - {{id: 2, country: DE, amount: 20, status: paid}}
      countries:
        - {{code: DE, name: Germany}}
    expect:
      by_country:
        - {{country_name: Germany, orders: 2, total: 30.50}}
"""

_ORDERS = """\
id,country,amount,status,ordered_at
1,DE,49.90,paid,2024-03-01T08:15:00Z
2,FR,120.00,paid,2024-03-01T09:02:10Z
3,DE,15.00,open,2024-03-01T10:40:00Z
4,JP,230.50,paid,2024-03-02T01:12:45Z
5,FR,8.75,paid,2024-03-02T07:30:00Z
6,DE,99.00,cancelled,2024-03-02T11:11:11Z
7,BR,64.20,paid,2024-03-02T18:05:30Z
8,DE,310.00,paid,2024-03-03T06:00:00Z
"""

_COUNTRIES = """\
code,name
BR,Brazil
DE,Germany
FR,France
JP,Japan
"""

_README = """\
# {name}

Reads `data/orders.csv`, keeps paid orders, adds the names of their countries, and writes
`out/paid_orders.csv` and `out/by_country.csv`.

```
{steps}
```

`workflow.yaml` has the whole workflow and its tests. `dataflare connectors` and `dataflare functions`
list what else it can use. State and history are in `.dataflare/`.
"""

_GITIGNORE = """\
.dataflare/
out/
"""

_STEPS = (
    ("dataflare test workflow.yaml", "run its tests"),
    ("dataflare plan workflow.yaml", "see how it will run"),
    ("dataflare preview workflow.yaml named", "see the first rows of a step"),
    ("dataflare run workflow.yaml", "run it"),
)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new or empty folder.", show_default=False)
    ],
    json: common.Json = False,
) -> int:
    """Create a project that runs: a workflow, data, tests."""
    name = workflow_name(folder.resolve().name)
    from dataflare.checkpoint.files import make_folder, writing

    with writing("the project"):
        if folder.exists() and not folder.is_dir():
            raise bad_usage(f"'{folder}' is a file", "dataflare init")
        content = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if content:
            more = ", ..." if len(content) > 3 else ""
            raise bad_usage(
                f"'{folder}' is not empty: it has {', '.join(content[:3])}{more}", "dataflare init"
            )
        make_folder(folder.absolute())
        files = project(name)
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    if json:
        commands = [line for line, _ in _STEPS]
        answers.print_json({"name": name, "folder": folder, "files": [*files], "next": commands})
    else:
        _print_next(folder, name)
    return 0


def project(name: str) -> dict[str, str]:
    """The files of a new project, by path."""
    steps = "\n".join(f"{line:<40} # {comment}" for line, comment in _STEPS)
    return {
        "workflow.yaml": _WORKFLOW.format(name=name),
        "data/orders.csv": _ORDERS,
        "data/countries.csv": _COUNTRIES,
        "README.md": _README.format(name=name, steps=steps),
        ".gitignore": _GITIGNORE,
    }


def workflow_name(text: str) -> str:
    """A workflow's name from a folder's name."""
    name = re.sub(r"[^a-z0-9_-]+", "_", text.lower()).lstrip("0123456789_-").rstrip("_-")
    return name[:63] or "orders"


def _print_next(folder: Path, name: str) -> None:
    terminal.print_heading(f"{name} is in {folder}")
    print()
    if folder.resolve() != Path.cwd():
        print(f"  cd {shlex.quote(str(folder))}")
    for line, comment in _STEPS:
        print(f"  {line:<40} # {comment}")
