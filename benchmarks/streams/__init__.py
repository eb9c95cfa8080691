"""Streams, lakes and databases beside the same work by hand: `python -m benchmarks.streams [CASE ...]`."""
