"""The `python` source and destination: rows from a function of the user's, and batches to one.

Never looks into what the function does, and never goes through rows that come as frames. Leans on
`sdk.user_code`, which finds the function.
"""

from dataflare.connectors.python.destination import PythonDestination
from dataflare.connectors.python.source import PythonSource

__all__ = ["PythonDestination", "PythonSource"]
