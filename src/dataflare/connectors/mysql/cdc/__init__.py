"""Read the changes of a table from the binary log of MariaDB, behind a snapshot of what is there. It takes no lock
and writes nothing to the server. It depends on the connector's own connections, catalog and readers of tables."""
