"""How often a failed call of a system is made again, and when.

Never decides what may be called twice: the engine does. Leans on `errors`, which say whether trying
again helps.
"""
