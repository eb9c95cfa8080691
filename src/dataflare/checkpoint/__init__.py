"""Remember how far a workflow has come: manifests, what to resume from, the store, the run history.

Never decides while it does I/O, and never knows an engine, a connector's insides or a state backend.
Leans on `model` for splits and positions and on `sdk` for committables and markers.
"""
