"""The optimiser rules, one file each, in this order. They do not change the result of a plan."""

from __future__ import annotations

from collections.abc import Callable

from dataflare.planner.graph import Graph
from dataflare.planner.rules.drop_unread import drop_unread
from dataflare.planner.rules.fuse import fuse
from dataflare.planner.rules.move_filters import move_filters
from dataflare.planner.rules.push_filters import push_filters
from dataflare.planner.rules.push_projection import push_projection

Rule = Callable[[Graph], Graph]

RULES: tuple[Rule, ...] = (fuse, move_filters, push_filters, drop_unread, push_projection)
