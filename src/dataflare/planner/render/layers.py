"""Place boxes in columns so that edges are short, straight and cross little.

The method of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981) in four passes: ranks, virtual
nodes on long edges, order by barycentres, coordinates by isotonic regression. Pure geometry: boxes
have sizes and ports, nothing here knows what is drawn.

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
"""How much more a bend in a long edge counts than one at a box."""


class Box(Struct):
    """What is placed. x, y: the top left corner, filled in here; virtual: a bend or an edge's label."""

    width: float
    height: float
    virtual: bool = False
    gap: float = 28.0
    rank: int = 0
    x: float = 0.0
    y: float = 0.0


class Link(Struct):
    """An edge between boxes, given by their index. leaves, enters: how far below the top of the box
    its ends are. label: width and height of what stands on it. way: boxes it passes, filled in."""

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
    """Fill in where the boxes lie and which way the links take; the result is the whole size.

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
    """Longest path from the left; what nothing leads to moves next to what it leads to."""
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
    """Sort each column by the mean place of its neighbours, there and back, and swap neighbours where
    that helps; keep the best seen."""
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
    for column, kept in zip(ranks, best, strict=True):
        column[:] = kept


def _sort(
    column: list[Box], near: dict[int, list[_Piece]], places: dict[int, float], forward: bool
) -> None:
    """By barycentre; a box without neighbours on that side keeps its place."""
    wanted = {}
    for index, box in enumerate(column):
        ends = [_end(piece, places, left=forward) for piece in near.get(id(box), ())]
        wanted[id(box)] = sum(ends) / len(ends) if ends else float(index)
    column.sort(key=lambda box: wanted[id(box)])


def _swap(ranks: list[list[Box]], between: list[list[_Piece]]) -> None:
    """Swap neighbours in a column wherever fewer edges cross then."""
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
    """Where a piece ends in its column, in boxes from the top, ports told apart."""
    box, port = (piece.left, piece.leaves) if left else (piece.right, piece.enters)
    return places[id(box)] + (port / box.height - 0.5 if box.height else 0.0) * 0.9


def _crossings(between: list[list[_Piece]], places: dict[int, float]) -> int:
    """How many pairs of pieces cross between two columns, over all of the given column pairs."""
    crossed = 0
    for pieces in between:
        ends = [(_end(p, places, left=True), _end(p, places, left=False)) for p in pieces]
        crossed += sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(ends) for b in ends[:i]
        )
    return crossed


# Coordinates


def _settle(ranks: list[list[Box]], pieces: list[_Piece]) -> None:
    """Move each column to where its edges are straightest, again and again, keeping its order."""
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
            wanted, weights = [], []
            for box in column:
                pulls = near.get(id(box), [])
                sided = [pull for pull in pulls if last or pull[3] is forward]
                weight = sum(pull[2] for pull in sided)
                spot = sum((p[0].y + p[1]) * p[2] for p in sided) / weight if weight else box.y
                wanted.append(spot)
                weights.append(weight or 0.05)
            _stack(column, wanted, weights)
    top = min((box.y for column in ranks for box in column), default=0.0)
    for column in ranks:
        for box in column:
            box.y -= top


def _stack(column: list[Box], wanted: list[float], weights: list[float]) -> None:
    """Put the boxes of a column as near as can be to where they want to be, in order and apart.

    Least squares under order constraints: isotonic regression by pooling adjacent violators.
    """
    offsets, offset = [], 0.0
    for index, box in enumerate(column):
        offsets.append(offset)
        if index + 1 < len(column):
            offset += box.height + max(box.gap, column[index + 1].gap)
    pools: list[list[float]] = []  # mean, weight, how many
    for spot, weight, shift in zip(wanted, weights, offsets, strict=True):
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
    """Give as many bends of each link as can be one height, that of one of its ends where there is
    room. May be called after the ports of placed boxes have moved; moves no box but bends."""
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
    """Between which heights the middle of a bend may lie without touching its neighbours."""
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
