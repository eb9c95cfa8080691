"""Read the changes of tables from PostgreSQL's log, behind a snapshot of what is there. It never advances a slot
beyond what a checkpoint has. It depends on the connector's own connections, catalog and readers of tables."""
