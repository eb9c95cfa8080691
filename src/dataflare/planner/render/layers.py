"""Place boxes in columns so that edges are short and straight and have few crossings.

The method of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981) in four passes: ranks, virtual
nodes on long edges, order by barycentres, coordinates by isotonic regression. Pure geometry: boxes
have sizes and ports only.

Always true: boxes of one rank lie in one column and never overlap; an edge's way bends only between
columns; the result depends on the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, field

_SWEEPS = 12
_SETTLE = 16
_STEEP_MAX = 40.0
_STRAIGHT = 6.0
"""The weight of a bend in a long edge; a bend at a box has weight 1."""


class Box(Struct):
    """A box to place. x, y: the top left corner, filled in here; virtual: a bend or an edge's label."""

    width: float
    height: float
    virtual: bool = False
    gap: float = 28.0
    rank: int = 0
    x: float = 0.0
    y: float = 0.0


class Link(Struct):
    """An edge between boxes, by their index. leaves, enters: the distance of its ends from the top of
    the box. label: width and height of its label. way: the virtual boxes it passes, filled in here."""

    source: int
    target: int
    leaves: float
    enters: float
    label: tuple[float, float] | None = None
    way: list[Box] = field(default_factory=list)
    label_box: Box | None = None


class _Piece(Struct):
    """A link between neighbouring ranks."""

    left: Box
    right: Box
    leaves: float
    enters: float
    weight: float


def place(boxes: Sequence[Box], links: Sequence[Link], column_gap: float) -> tuple[float, float]:
    """Fill in the places of boxes and the ways of links. Returns the size of the drawing.

    boxes must be ordered so that links lead forward. Between two columns of boxes there is a narrow
    column for the labels of edges.
    """
    _rank(boxes, links)
    pieces = _pieces(boxes, links)
    ranks = _columns(boxes, links)
    _order(ranks, pieces)
    _settle(ranks, pieces)
    return _spread(ranks, pieces, column_gap)


def _rank(boxes: Sequence[Box], links: Sequence[Link]) -> None:
    """Rank by the longest path from the left. A box without incoming links is placed beside its target."""
    for link in sorted(links, key=lambda link: link.source):
        source, target = boxes[link.source], boxes[link.target]
        target.rank = max(target.rank, source.rank + 2)
    entered = {link.target for link in links}
    for index, box in enumerate(boxes):
        nexts = [boxes[link.target].rank for link in links if link.source == index]
        if index not in entered and nexts:
            box.rank = min(nexts) - 2


def _pieces(boxes: Sequence[Box], links: Sequence[Link]) -> list[_Piece]:
    """Cut links into pieces of one rank, with a virtual box at each cut and one for the label."""
    pieces = []
    for link in links:
        left, leaves = boxes[link.source], link.leaves
        target = boxes[link.target]
        for rank in range(left.rank + 1, target.rank):
            labelled = link.label is not None and rank == boxes[link.source].rank + 1
            width, height = link.label if labelled and link.label else (0.0, 0.0)
            bend = Box(width, height, virtual=True, gap=8.0 if rank % 2 else 18.0, rank=rank)
            if labelled:
                link.label_box = bend
            weight = _STRAIGHT if left.virtual else 1.0
            pieces.append(_Piece(left, bend, leaves, height / 2, weight))
            link.way.append(bend)
            left, leaves = bend, height / 2
        pieces.append(_Piece(left, target, leaves, link.enters, 1.0))
    return pieces


def _columns(boxes: Sequence[Box], links: Sequence[Link]) -> list[list[Box]]:
    everything = [*boxes, *(bend for link in links for bend in link.way)]
    ranks: list[list[Box]] = [[] for _ in range(max((b.rank for b in everything), default=-1) + 1)]
    for box in everything:
        ranks[box.rank].append(box)
    return ranks


# Order within columns


def _order(ranks: list[list[Box]], pieces: list[_Piece]) -> None:
    """Sort each column by the mean place of its neighbours, forward and backward, and swap adjacent boxes
    if this gives fewer crossings. Keep the best order."""
    into: dict[int, list[_Piece]] = {}
    out: dict[int, list[_Piece]] = {}
    between: list[list[_Piece]] = [[] for _ in ranks]
    for piece in pieces:
        into.setdefault(id(piece.right), []).append(piece)
        out.setdefault(id(piece.left), []).append(piece)
        between[piece.left.rank].append(piece)
    best, fewest = [list(column) for column in ranks], _crossings(between, _places(ranks))
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        for column in ranks if forward else reversed(ranks):
            _sort(column, into if forward else out, _places(ranks), forward)
        _swap(ranks, between)
        crossed = _crossings(between, _places(ranks))
        if crossed < fewest:
            best, fewest = [list(column) for column in ranks], crossed
    for column, ordered in zip(ranks, best, strict=True):
        column[:] = ordered


def _sort(
    column: list[Box], near: dict[int, list[_Piece]], places: dict[int, float], forward: bool
) -> None:
    """Sort by barycentre. A box without neighbours on that side keeps its place."""
    targets = {}
    for index, box in enumerate(column):
        ends = [_end(piece, places, left=forward) for piece in near.get(id(box), ())]
        targets[id(box)] = sum(ends) / len(ends) if ends else float(index)
    column.sort(key=lambda box: targets[id(box)])


def _swap(ranks: list[list[Box]], between: list[list[_Piece]]) -> None:
    """Swap adjacent boxes of a column if fewer edges cross then."""
    for rank, column in enumerate(ranks):
        touched = between[max(rank - 1, 0) : rank + 1]
        places = _places(ranks)
        crossed = _crossings(touched, places)
        for i in range(len(column) - 1):
            if not crossed:
                break
            upper, lower = column[i], column[i + 1]
            places[id(upper)], places[id(lower)] = i + 1.0, float(i)
            swapped = _crossings(touched, places)
            if swapped < crossed:
                column[i], column[i + 1], crossed = lower, upper, swapped
            else:
                places[id(upper)], places[id(lower)] = float(i), i + 1.0


def _places(ranks: list[list[Box]]) -> dict[int, float]:
    return {id(box): float(index) for column in ranks for index, box in enumerate(column)}


def _end(piece: _Piece, places: dict[int, float], *, left: bool) -> float:
    """The place of a piece's end in its column, in boxes from the top, with a fraction for the port."""
    box, port = (piece.left, piece.leaves) if left else (piece.right, piece.enters)
    return places[id(box)] + (port / box.height - 0.5 if box.height else 0.0) * 0.9


def _crossings(between: list[list[_Piece]], places: dict[int, float]) -> int:
    """The number of crossings of pieces, over all the column pairs in `between`."""
    crossed = 0
    for pieces in between:
        ends = [(_end(p, places, left=True), _end(p, places, left=False)) for p in pieces]
        crossed += sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(ends) for b in ends[:i]
        )
    return crossed


# Coordinates


def _settle(ranks: list[list[Box]], pieces: list[_Piece]) -> None:
    """Move the boxes of each column to where their edges are straightest, several times, in the same
    order."""
    for column in ranks:
        _stack(column, [0.0] * len(column), [1.0] * len(column))
    near: dict[int, list[tuple[Box, float, float, bool]]] = {}
    for piece in pieces:
        shift = piece.leaves - piece.enters
        near.setdefault(id(piece.right), []).append((piece.left, shift, piece.weight, True))
        near.setdefault(id(piece.left), []).append((piece.right, -shift, piece.weight, False))
    for turn in range(_SETTLE):
        last = turn >= _SETTLE - 2
        forward = turn % 2 == 0
        for column in ranks if forward else reversed(ranks):
            targets, weights = [], []
            for box in column:
                pulls = near.get(id(box), [])
                sided = [pull for pull in pulls if last or pull[3] is forward]
                weight = sum(pull[2] for pull in sided)
                spot = sum((p[0].y + p[1]) * p[2] for p in sided) / weight if weight else box.y
                targets.append(spot)
                weights.append(weight or 0.05)
            _stack(column, targets, weights)
    top = min((box.y for column in ranks for box in column), default=0.0)
    for column in ranks:
        for box in column:
            box.y -= top


def _stack(column: list[Box], targets: list[float], weights: list[float]) -> None:
    """Place the boxes of a column as near as possible to their targets, in order and without overlap.

    Least squares under order constraints: isotonic regression by pooling adjacent violators.
    """
    offsets, offset = [], 0.0
    for index, box in enumerate(column):
        offsets.append(offset)
        if index + 1 < len(column):
            offset += box.height + max(box.gap, column[index + 1].gap)
    pools: list[list[float]] = []  # mean, weight, how many
    for spot, weight, shift in zip(targets, weights, offsets, strict=True):
        pools.append([spot - shift, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, heavy, count = pools.pop()
            total = pools[-1][1] + heavy
            pools[-1][0] = (pools[-1][0] * pools[-1][1] + mean * heavy) / total
            pools[-1][1], pools[-1][2] = total, pools[-1][2] + count
    tops = [pool[0] for pool in pools for _ in range(int(pool[2]))]
    for box, top, shift in zip(column, tops, offsets, strict=True):
        box.y = top + shift


def _spread(ranks: list[list[Box]], pieces: list[_Piece], column_gap: float) -> tuple[float, float]:
    """Give each column its x, further from the next one where edges between them are steep."""
    steepest = [0.0] * len(ranks)
    for piece in pieces:
        rise = abs(piece.left.y + piece.leaves - piece.right.y - piece.enters)
        steepest[piece.left.rank] = max(steepest[piece.left.rank], rise)
    x, right = 0.0, 0.0
    for column, rise in zip(ranks, steepest, strict=True):
        width = max((box.width for box in column), default=0.0)
        for box in column:
            box.x = x
            if box.virtual:
                box.width = width
        right = x + width
        x = right + column_gap + min(_STEEP_MAX, rise / 6)
    height = max((box.y + box.height for column in ranks for box in column), default=0.0)
    return right, height


# Straight edges


def straighten(boxes: Sequence[Box], links: Sequence[Link]) -> None:
    """Give as many bends of each link as possible the same height, if possible that of one of its ends.
    May be called after the ports of placed boxes have moved. Moves only bends."""
    columns: dict[int, list[Box]] = {}
    for box in [*boxes, *(bend for link in links for bend in link.way)]:
        columns.setdefault(box.rank, []).append(box)
    for column in columns.values():
        column.sort(key=lambda box: box.y)
    for link in sorted(links, key=lambda link: -len(link.way)):
        starts = boxes[link.source].y + link.leaves
        ends = boxes[link.target].y + link.enters
        run: list[Box] = []
        low, high = -math.inf, math.inf
        for bend in link.way:
            lowest, highest = _room(bend, columns[bend.rank])
            if max(low, lowest) > min(high, highest):
                _level(run, low, high, starts, ends)
                starts, run, low, high = run[-1].y + run[-1].height / 2, [], -math.inf, math.inf
            run.append(bend)
            low, high = max(low, lowest), min(high, highest)
        _level(run, low, high, starts, ends)


def _room(bend: Box, column: list[Box]) -> tuple[float, float]:
    """The lowest and highest y of a bend's middle at which it does not touch its neighbours."""
    place = next(index for index, box in enumerate(column) if box is bend)
    half = bend.height / 2
    low, high = -math.inf, math.inf
    if place:
        above = column[place - 1]
        low = above.y + above.height + max(above.gap, bend.gap) + half
    if place + 1 < len(column):
        below = column[place + 1]
        high = below.y - max(below.gap, bend.gap) - half
    middle = bend.y + half
    return min(low, middle), max(high, middle)


def _level(run: list[Box], low: float, high: float, starts: float, ends: float) -> None:
    mean = sum(bend.y + bend.height / 2 for bend in run) / len(run)
    fitting = [height for height in (starts, ends) if low <= height <= high]
    height = fitting[0] if fitting else min(max(mean, low), high)
    for bend in run:
        bend.y = height - bend.height / 2
