"""Iceberg tables of a catalogue. Depends on `sdk.lakes` for the protocol and on the library pyiceberg for
catalogues, manifests and commits: data files are written here, with pyarrow."""
