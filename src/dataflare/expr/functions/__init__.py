"""One file per group of functions; importing this fills the registry."""

from dataflare.expr.functions import (  # noqa: F401
    aggregate,
    arithmetic,
    conditional,
    formats,
    hashing,
    instants,
    json,
    logic,
    mask,
    math,
    nested,
    regex,
    string,
    temporal,
)
