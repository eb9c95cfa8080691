"""Bytes to batches and back: CSV, NDJSON, JSON, Parquet, Arrow IPC and Excel, compressed or not.

Never names a connector, never opens a network and never decides what to do with a bad row: it
finds it and says where it stands. Depends on `model`, `errors` and Polars.
"""
