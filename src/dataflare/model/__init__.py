"""The words every other room speaks: schema and types, batch, split, position, watermark, barrier.

Never does I/O, never knows a connector or an operator. Leans on `errors` only.
Import from the submodules; those that need Polars (`batch`) import it, the others do not.
"""
