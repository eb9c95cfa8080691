"""Read and write tables of ClickHouse, over its HTTP interface.

Never lets the server convert a value: rows are sent with the types of the columns, and what a column would
change is refused before. Depends on `sdk.sql` for the source, the redo files and the marker.
"""
