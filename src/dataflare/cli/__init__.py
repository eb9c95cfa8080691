"""The command `dataflare`: one file a command, thin over the rooms that do the work.

Never decides what a workflow means and never shows a traceback unless asked. Leans on `workflow`,
`planner` and `jobs`, each imported only by the command that needs it, so that answers come fast.
"""
