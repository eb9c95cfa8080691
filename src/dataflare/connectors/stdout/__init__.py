"""Prints rows: each row as it comes, or a table that keeps the newest row of each key. Keeps nothing after the run.
Depends on `sdk` and on the text forms of `formats`.
"""

from dataflare.connectors.stdout.destination import StdoutDestination

__all__ = ["StdoutDestination"]
