"""The contracts others implement, and the registry that finds who implements them.

Never runs anything and never imports a connector before its name is asked for. Depends on `model`
and `expr`. Built-in connectors come in by the same door as anybody's: `registry`.
"""
