"""What connectors of SQL databases share: config, redo files, markers, folding, the commit dance.

Never speaks to a database itself: each connector brings a `TableStore` or a page query of its own.
Leans on `sdk` for the contracts and on `model` for rows and types.
"""
