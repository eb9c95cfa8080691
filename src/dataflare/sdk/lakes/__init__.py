"""Tables of lakes (Delta Lake, Iceberg): data files in a folder, and a log or a catalogue that says which of
them are the table. One commit replaces some files by others, and has the marker of the run.

A connector adds its `LakeTable` and its `LakeStore`.
"""
