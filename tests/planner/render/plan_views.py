"""Plans' views for tests: a few drawn by hand, and any number by Hypothesis."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

LEVELS = ("exactly once", "effectively once", "at least once", "at most once")


def node(name: str, kind: str, type_: str, stage: int, *notes: str, tasks: int = 1) -> Any:
    return {
        "id": name,
        "kind": kind,
        "type": type_,
        "stage": stage,
        "notes": list(notes),
        "schema": {"carrier": "string", "distance": "int64"},
        "parallelism": tasks,
    }


def edge(source: str, target: str, exchange: str = "chain", *keys: str, output: Any = None) -> Any:
    return {
        "from": source,
        "output": output,
        "to": target,
        "exchange": exchange,
        "keys": list(keys),
    }


def view(name: str, nodes: list[Any], edges: list[Any], **more: Any) -> dict[str, Any]:
    """A view whose stages follow from its nodes. merged: ids of the stages merged into a scan."""
    merged = more.pop("merged", ())
    stages: dict[Any, Any] = {}
    for each in nodes:
        stage = stages.setdefault(
            each["stage"],
            {
                "id": each["stage"],
                "name": each["id"],
                "steps": [],
                "parallelism": each["parallelism"],
                "merged_into_scan": each["stage"] in merged,
            },
        )
        stage["steps"].append(each["id"])
    base = {"mode": "batch", "parallelism": 2, "guarantees": {}, "rules": []}
    return {
        "workflow": name,
        **base,
        "stages": list(stages.values()),
        "nodes": nodes,
        "edges": edges,
        **more,
    }


LINEAR = view(
    "flights",
    [
        node("flights", "source", "file", 0, "reads 8 of 19 columns", tasks=2),
        node("far", "transformation", "filter", 0, "filter distance > 100", tasks=2),
        node("totals", "transformation", "aggregate", 1, "group by carrier", tasks=2),
        node("out", "destination", "file", 2),
    ],
    [
        edge("flights", "far"),
        edge("far", "totals", "hash", "carrier"),
        edge("totals", "out", "rebalance"),
    ],
    merged=(0,),
    guarantees={"out": {"level": "exactly once", "reason": "the source replays exactly"}},
    rules=[{"rule": "push_projection", "effect": "flights: 8 of 19 columns"}],
)

ROUTES = view(
    "regions",
    [
        node("events", "source", "generate", 0),
        node("router", "transformation", "route", 0),
        node("eu_out", "destination", "file", 1),
        node("us_out", "destination", "sqlite", 2),
    ],
    [
        edge("events", "router"),
        edge("router", "eu_out", "forward", output="eu"),
        edge("router", "us_out", "hash", "user_id", output="us"),
    ],
    mode="streaming",
)

BRANCHES_INSIDE = view(
    "inside",
    [
        node("s", "source", "file", 0),
        node("split", "transformation", "route", 0),
        node("a", "transformation", "map", 0),
        node("b", "transformation", "map", 0),
        node("both", "transformation", "union", 0),
    ],
    [
        edge("s", "split"),
        edge("split", "a", output="eu"),
        edge("split", "b", output="us"),
        edge("a", "both"),
        edge("b", "both"),
    ],
)

STAGES_IN_A_RING = view(
    "ring",
    [
        node("first", "source", "file", 0),
        node("aside", "transformation", "map", 1),
        node("last", "destination", "file", 0),
    ],
    [
        edge("first", "last"),
        edge("first", "aside", "rebalance"),
        edge("aside", "last", "rebalance"),
    ],
)

_TEXTS = st.text(max_size=60)
_NAMES = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_]{0,40}", fullmatch=True), st.text(min_size=1, max_size=30)
)
_EXCHANGES = st.sampled_from(["forward", "hash", "rebalance", "broadcast", "chain"])


@st.composite
def views(draw: st.DrawFn, names: st.SearchStrategy[str] = _NAMES) -> dict[str, Any]:
    """Any acyclic plan: nodes in an order, edges forward, stages dealt out at random."""
    ids = draw(st.lists(names, min_size=1, max_size=14, unique=True))
    stages = draw(st.integers(1, len(ids)))
    nodes = []
    for place, name in enumerate(ids):
        kind = draw(st.sampled_from(["source", "transformation", "destination"]))
        stage = draw(st.integers(0, stages - 1))
        made = node(name, kind, draw(_TEXTS), stage, tasks=draw(st.integers(1, 64)))
        made["notes"] = draw(st.lists(_TEXTS, max_size=6))
        if place % 3 == 0:
            made["schema"] = draw(st.dictionaries(_TEXTS, _TEXTS, max_size=3))
        nodes.append(made)
    forward = list(itertools.combinations(range(len(ids)), 2))
    pairs = draw(st.lists(st.sampled_from(forward), max_size=24, unique=True)) if forward else []
    edges = [
        edge(
            ids[a],
            ids[b],
            draw(_EXCHANGES),
            *draw(st.lists(_TEXTS, max_size=2)),
            output=draw(st.none() | st.text(min_size=1, max_size=20)),
        )
        for a, b in pairs
    ]
    promised = [each["id"] for each in nodes if each["kind"] == "destination"]
    guarantees = {
        name: {"level": draw(st.sampled_from(LEVELS)), "reason": draw(_TEXTS)} for name in promised
    }
    return view(draw(_TEXTS), nodes, edges, guarantees=guarantees)
