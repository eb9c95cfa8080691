"""Where tasks would run, and which rows would cross the network: for `dataflare plan --cluster`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataflare.cluster.placement import placed
from dataflare.engine.messages import Deploy

JOB = "the job's process"


def placement_view(specs: Sequence[Deploy], workers: int) -> dict[str, Any]:
    """JSON. workers: by name, its tasks; edges: between two steps, how many of its channels lead to another process."""
    where = placed(specs, workers)
    names = [*(f"worker {number}" for number in range(workers)), JOB]
    tasks: dict[str, list[str]] = {}
    for name in names[:workers]:
        tasks[name] = []
    edges: dict[int, dict[str, Any]] = {}
    stages = {spec.task: spec.stage.name for spec in specs}
    for spec in specs:
        tasks.setdefault(names[where[spec.task]], []).append(spec.task)
        for outlet in spec.outlets:
            edge = edges.setdefault(
                outlet.edge,
                {
                    "from": spec.stage.name,
                    "to": stages[outlet.tasks[0]],
                    "exchange": outlet.exchange,
                    "keys": list(outlet.keys),
                    "channels": 0,
                    "over_network": 0,
                },
            )
            edge["channels"] += len(outlet.tasks)
            edge["over_network"] += sum(where[each] != where[spec.task] for each in outlet.tasks)
    return {"workers": tasks, "edges": [edges[number] for number in sorted(edges)]}


def placement_text(view: dict[str, Any]) -> str:
    """The same as text."""
    tasks: dict[str, list[str]] = view["workers"]
    width = max(map(len, tasks))
    lines = [f"{name:<{width}}  {', '.join(each) or '-'}" for name, each in tasks.items()]
    lines.append("")
    for edge in view["edges"]:
        by = f" by {', '.join(edge['keys'])}" if edge["keys"] else ""
        crossing, channels = edge["over_network"], edge["channels"]
        share = f"{crossing} of {channels} channels over the network" if crossing else "in memory"
        lines.append(f"{edge['from']} -> {edge['to']} ({edge['exchange']}{by}): {share}")
    return "\n".join(lines) + "\n"
