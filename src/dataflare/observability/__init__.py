"""What a run tells of itself while it runs: times, a view of all of it, and metrics for other systems."""
