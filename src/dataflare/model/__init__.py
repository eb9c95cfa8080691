"""The data types that every other room uses: schema, types, batch, split, position, watermark, barrier.

It does no I/O and does not import connectors or operators. It depends on `errors` only.
Import from the submodules. Those that need Polars (`batch`) import it, the others do not.
"""
