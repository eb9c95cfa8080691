"""One file per step of the format page: what a step's config means, as operators of the plan.

Never reads or writes a system itself and knows no task, channel or checkpoint. Depends on `expr` for
expressions and on `sdk.registry` where a step reads a table (`lookup`).
"""
