"""DuckDB database files, read as Arrow streams and written in one transaction an epoch.

Never holds a file open for writing outside prepare to commit. Depends on `sdk.sql` for the
protocol and on the duckdb library, which needs pyarrow to take or give Arrow.
"""
