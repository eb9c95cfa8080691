"""The command `dataflare`: one file for each command, a thin layer over the rooms that do the work.

It does not decide what a workflow means, and shows a traceback only with `--debug`. It depends on
`workflow`, `planner` and `jobs`. A command imports only the rooms that it needs, so that it starts fast.
"""
