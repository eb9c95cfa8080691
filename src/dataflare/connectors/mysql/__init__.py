"""MySQL and MariaDB: tables and queries read by columns, tables written exactly once.

Never puts a value into SQL except as a number or in hexadecimal. Depends on `sdk.sql` for redo files,
markers and modes, and on pymysql for the connection.
"""
