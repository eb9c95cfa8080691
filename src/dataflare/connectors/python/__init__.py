"""The `python` source and destination: rows from a user's function, and batches to a user's
function. Never inspects the function, and never iterates over rows of frames. Depends on
`sdk.user_code`, which finds the function.
"""

from dataflare.connectors.python.destination import PythonDestination
from dataflare.connectors.python.source import PythonSource

__all__ = ["PythonDestination", "PythonSource"]
