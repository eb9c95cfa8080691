"""The delivery guarantee of each destination with its reason, and the refusal of a higher demand. Pure."""

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
    Replay.REDELIVERED: "is given again what no checkpoint has",
}


class Guarantee(Struct, frozen=True):
    """by_id: with effectively once, rows are known by a column or a key, so that in the end each is there once, as with exactly
    once."""

    level: Delivery
    reason: str
    by_id: bool = False

    def holds(self, lowest: Delivery) -> bool:
        if self.level is Delivery.IDEMPOTENT and lowest is Delivery.TRANSACTIONAL:
            return self.by_id
        return _RANK.index(self.level) >= _RANK.index(lowest)


def guarantees(graph: Graph) -> dict[str, Guarantee]:
    """The guarantee of each destination, by its name."""
    return {n.id: _guarantee(graph, n) for n in graph if isinstance(n, DestinationNode)}


def commits_wait(graph: Graph) -> bool:
    """Whether all epochs are committed at the end of the run, because a bounded source cannot replay."""
    return any(
        isinstance(node, SourceNode)
        and node.connector.capabilities().replay is Replay.NONE
        and node.connector.capabilities().bounded
        for node in graph
    )


def demand(levels: dict[str, Guarantee], demanded: str | None) -> None:
    """Raise PlanError (E0320) if a destination cannot give the guarantee that the settings demand."""
    if demanded is None:
        return
    lowest = _DEMANDS[demanded]
    for name, guarantee in levels.items():
        if not guarantee.holds(lowest):
            raise PlanError(
                f"destination '{name}' cannot promise '{demanded}': it is {guarantee.level.value}",
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
        if isinstance(source, DestinationNode):
            reasons.append(f"gets the rows of {id_} while the circuit breaker of that is open")
        if not isinstance(source, SourceNode):
            continue
        source_capabilities = source.connector.capabilities()
        replay_reason = (
            f": {source_capabilities.replay_reason}" if source_capabilities.replay_reason else ""
        )
        if source_capabilities.replay is not Replay.NONE:
            reasons.append(f"{source.id} {_REPLAYS[source_capabilities.replay]}{replay_reason}")
            if source_capabilities.repeats:
                kept_once = node.connector.keeps_last is not None
                most = Delivery.IDEMPOTENT if kept_once else Delivery.REPEATING
                level = min(level, most, key=_RANK.index)
        elif source_capabilities.bounded:
            reasons.append(
                f"{source.id} cannot be read again from a position{replay_reason}; "
                "so all rows are committed at the end of the run"
            )
        else:
            level = Delivery.FLEETING
            reasons.append(
                f"{source.id} cannot be read again from a position{replay_reason}; "
                "so a crash loses rows that were read and not yet committed"
            )
    by_id = capabilities.by_id or node.connector.keeps_last is not None
    return Guarantee(level, "; ".join([*reasons, capabilities.reason]), by_id)


def upstream(graph: Graph, node: str) -> list[str]:
    """All nodes before `node`, in the graph's order."""
    ids: set[str] = set()
    unvisited = [node]
    while unvisited:
        for port in graph.nodes[unvisited.pop()].inputs:
            if port.node not in ids:
                ids.add(port.node)
                unvisited.append(port.node)
    return [id_ for id_ in graph.nodes if id_ in ids]
