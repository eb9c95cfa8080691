"""What each destination can promise, and why; and the refusal of what cannot hold. Pure."""

from __future__ import annotations

from msgspec import Struct

from dataflare.errors import PlanError
from dataflare.planner.graph import DestinationNode, Graph, SourceNode
from dataflare.sdk.destination import Delivery
from dataflare.sdk.source import Replay

_RANK = [Delivery.FLEETING, Delivery.REPEATING, Delivery.IDEMPOTENT, Delivery.TRANSACTIONAL]
_DEMANDS = {
    "exactly_once": Delivery.TRANSACTIONAL,
    "effectively_once": Delivery.IDEMPOTENT,
    "at_least_once": Delivery.REPEATING,
    "at_most_once": Delivery.FLEETING,
}


_REPLAYS = {
    Replay.EXACT: "replays exactly",
    Replay.BY_KEY: "replays an unfinished range by its key",
}


class Guarantee(Struct, frozen=True):
    level: Delivery
    reason: str


def guarantees(graph: Graph) -> dict[str, Guarantee]:
    """The guarantee of each destination, by its name."""
    return {n.id: _guarantee(graph, n) for n in graph if isinstance(n, DestinationNode)}


def commits_wait(graph: Graph) -> bool:
    """Whether no epoch may be committed before the end: some source cannot replay at all, and has
    an end to wait for."""
    return any(
        isinstance(node, SourceNode)
        and node.connector.capabilities().replay is Replay.NONE
        and node.connector.capabilities().bounded
        for node in graph
    )


def demand(found: dict[str, Guarantee], wanted: str | None) -> None:
    """Raise PlanError (E0320) when a destination cannot hold what the settings demand."""
    if wanted is None:
        return
    needed = _DEMANDS[wanted]
    for name, guarantee in found.items():
        if _RANK.index(guarantee.level) < _RANK.index(needed):
            raise PlanError(
                f"destination '{name}' cannot promise '{wanted}': it is {guarantee.level.value}",
                code="E0320",
                step=name,
                notes=[guarantee.reason],
                help="choose another destination or mode, or lower settings.guarantee",
            )


def _guarantee(graph: Graph, node: DestinationNode) -> Guarantee:
    capabilities = node.connector.capabilities()
    level, reasons = capabilities.delivery, []
    for id_ in upstream(graph, node.id):
        source = graph.nodes[id_]
        if not isinstance(source, SourceNode):
            continue
        able = source.connector.capabilities()
        why = f": {able.replay_reason}" if able.replay_reason else ""
        if able.replay is not Replay.NONE:
            reasons.append(f"{source.id} {_REPLAYS[able.replay]}{why}")
        elif able.bounded:
            reasons.append(
                f"{source.id} cannot be read again from a place{why}; "
                "so everything is committed at the end of the run"
            )
        else:
            level = Delivery.FLEETING
            reasons.append(
                f"{source.id} cannot be read again from a place{why}; "
                "so rows that were read and not committed are lost in a crash"
            )
    return Guarantee(level, "; ".join([*reasons, capabilities.reason]))


def upstream(graph: Graph, node: str) -> list[str]:
    """All nodes that rows pass before `node`, in the graph's order."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        for port in graph.nodes[waiting.pop()].inputs:
            if port.node not in found:
                found.add(port.node)
                waiting.append(port.node)
    return [id_ for id_ in graph.nodes if id_ in found]
