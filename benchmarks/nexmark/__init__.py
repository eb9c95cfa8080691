"""The Nexmark queries as workflows, each compared with DuckDB over the same events."""
