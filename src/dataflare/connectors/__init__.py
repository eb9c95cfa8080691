"""The systems rows come from and go to, one file or folder per system.

Never knows the engine, the planner or another connector, and imports a client only when used.
Depends on `sdk` for the contracts and on `formats` for bytes.
"""
