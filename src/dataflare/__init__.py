"""DataFlare: data integration from one file, batch and streaming, exactly once."""

__version__ = "0.1.0"
