"""One file for each group of functions. Importing this package fills the registry."""

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
