"""Reads rows from the workflow file. Never converts texts to numbers without a contract; texts that
are all ISO times are times, as in NDJSON files. Depends on `sdk` and on the text types of `formats`.
"""

from dataflare.connectors.inline.source import InlineSource

__all__ = ["InlineSource"]
