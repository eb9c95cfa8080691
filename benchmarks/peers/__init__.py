"""Other tools at the same work, in turns with us: `python -m benchmarks.peers --dlt PYTHON ...`.

A peer lives in an environment of its own, never in ours. `NAME_job.py` is the work as one writes it for
that peer, by its own documents' advice for speed; it runs with the peer's Python and imports nothing of
ours but the percentiles of `benchmarks.latency`.
"""
