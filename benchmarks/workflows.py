"""The workflow files of the cases, as a user would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DERIVE = {
    "gross": "amount * 1.2",
    "country": "upper(country)",
    "email": "regexp_replace(email, '^(.).*@', '\\1***@')",
}


def files(name: str, source: Path, out: Path, customers: Path | None = None) -> dict[str, Any]:
    """Orders from a file to a file: a filter, perhaps a lookup, three derived columns."""
    made: dict[str, Any] = {
        "name": name,
        "version": "1.0",
        "sources": {"orders": {"type": "file", "config": {"path": str(source)}}},
        "transformations": {
            "completed": {
                "type": "filter",
                "inputs": ["orders"],
                "config": {"condition": "status == 'completed'"},
            },
        },
        "destinations": {
            "out": {"type": "file", "inputs": ["derived"], "config": {"path": str(out)}}
        },
    }
    last = "completed"
    if customers is not None:
        made["sources"]["customers"] = {"type": "file", "config": {"path": str(customers)}}
        made["transformations"]["enriched"] = {
            "type": "lookup",
            "inputs": [last],
            "config": {
                "source": "customers",
                "mapping": {
                    "key": "customer_id",
                    "remote_key": "id",
                    "fields": ["category", "priority"],
                },
            },
        }
        last = "enriched"
    derived = {"type": "map", "inputs": [last], "config": {"derive": DERIVE}}
    made["transformations"]["derived"] = derived
    return made


ORDER_TYPES = {
    "order_id": "int64",
    "customer_id": "int64",
    "status": "string",
    "amount": "float64",
    "country": "string",
    "email": "string",
    "created_at": "timestamp",
    "sku": "string",
}


def with_dead_letters(source: Path, out: Path) -> dict[str, Any]:
    """Orders from CSV to a file; rows that cannot be read become dead letters."""
    made = files(source.stem, source, out)
    made["sources"]["orders"]["schema"] = ORDER_TYPES
    made["settings"] = {"error_handling": {"on_error": "dead_letter"}}
    return made


def generated(rows: int) -> dict[str, Any]:
    """Rows made, filtered, mapped and thrown away, with a checkpoint each second."""
    made = paced(rate=None, rows=rows)
    made["name"] = "generated"
    made["destinations"] = {"nowhere": {"type": "blackhole", "inputs": ["mapped"], "config": {}}}
    return made


def paced(rate: int | None, rows: int) -> dict[str, Any]:
    """Rows at their due time, into `latency_probe`."""
    columns: dict[str, Any] = {
        "id": {"sequence": 0},
        "user": {"int": [1, 1000]},
        "amount": {"float": [0, 100]},
        "status": {"choice": ["active", "gone"]},
    }
    config: dict[str, Any] = {"columns": columns, "rows": rows, "seed": 1}
    if rate is not None:
        columns["at"] = {"time": {"start": "now"}}
        config["rate"] = f"{rate}/s"
    return {
        "name": "paced",
        "version": "1.0",
        "settings": {"mode": "streaming" if rate else "auto", "checkpoint": {"interval": "1s"}},
        "sources": {"events": {"type": "generate", "config": config}},
        "transformations": {
            "active": {
                "type": "filter",
                "inputs": ["events"],
                "config": {"condition": "status == 'active'"},
            },
            "mapped": {
                "type": "map",
                "inputs": ["active"],
                "config": {"derive": {"gross": "amount * 1.2"}},
            },
        },
        "destinations": {"probe": {"type": "latency_probe", "inputs": ["mapped"], "config": {}}},
    }


def long_chain(source: Path, steps: int = 30) -> dict[str, Any]:
    """A workflow of `steps` steps in all, to be validated."""
    transformations: dict[str, Any] = {}
    last = "orders"
    for i in range(steps - 2):
        name = f"step_{i:02}"
        if i % 2:
            config = {"condition": f"amount > {i} AND country <> 'xx'"}
            transformations[name] = {"type": "filter", "inputs": [last], "config": config}
        else:
            config = {"derive": {f"c{i}": f"amount * {i} + length(email)", "sku": "upper(sku)"}}
            transformations[name] = {"type": "map", "inputs": [last], "config": config}
        last = name
    return {
        "name": "long_chain",
        "version": "1.0",
        "sources": {"orders": {"type": "file", "config": {"path": str(source)}}},
        "transformations": transformations,
        "destinations": {"nowhere": {"type": "blackhole", "inputs": [last], "config": {}}},
    }


def write(workflow: dict[str, Any], path: Path) -> Path:
    """The workflow as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(workflow, sort_keys=False))
    return path
