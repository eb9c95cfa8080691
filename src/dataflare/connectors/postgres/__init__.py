"""PostgreSQL: tables and queries read from one snapshot, tables written exactly once.

Never parses SQL and never puts a value into it: values travel beside the text. Leans on
`connectors.sql` for redo files, markers and folding, on psycopg for everything but columns, and on the
ADBC driver for columns on the way in.
"""
