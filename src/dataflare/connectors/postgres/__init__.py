"""PostgreSQL: tables and queries read from one snapshot, tables written exactly once.

Never parses SQL and never puts a value into it: values are sent separately. Depends on
`sdk.sql` for redo files, markers and folding, on the ADBC driver to read columns, and on
psycopg for everything else.
"""
