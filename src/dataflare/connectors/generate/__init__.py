"""Makes rows from a seed, for demos, tests and load.

Never lets a batch size, a split, a projection or a replay change a value. Depends on `sdk` and on the
key hash of `model`.
"""

from dataflare.connectors.generate.source import GenerateSource

__all__ = ["GenerateSource"]
