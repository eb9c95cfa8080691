"""SQLite database files, read page by page and written in one transaction an epoch.

Never holds a lock on the database between two pages when reading, and only from prepare to commit
when writing. Depends on `sdk.sql` for the protocol and on the ADBC driver for columnar input
and output.
"""
