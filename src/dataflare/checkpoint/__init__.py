"""The progress of a workflow: manifests, the decision what to resume from, the store, the run history.

Code that decides does no I/O. The room does not import the engine, connectors or state backends. It
depends on `model` for splits and positions, and on `sdk` for committables and markers.
"""
