"""What a run tells of itself while it runs.

A view of all of it (`view`), times and which step sets the pace, the course over time, alerts and their notifiers, the log,
the door for other programs, metrics (Prometheus, OTLP), spans, and lineage (OpenLineage).
"""
