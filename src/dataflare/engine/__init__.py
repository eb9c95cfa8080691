"""One plan running in one process: tasks, channels, batching, checkpoints.

Never decides what a run may resume (that is `checkpoint`) and never keeps run history (that is `jobs`).
Depends on `planner.physical` for what to run, on `sdk` for connectors and on `checkpoint` for storage.
"""
