"""Shared by the connectors of SQL databases: config, redo files, markers, folding, the commit
protocol. Never connects to a database itself: each connector has a `TableStore` or page queries.
Depends on `sdk` for the contracts and on `model` for rows and types.
"""
