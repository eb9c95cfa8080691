"""Files on a disk, as a source and as a destination.

Never leaves a half-written file under a name that a glob for data would find. Depends on `formats`
for the content of the files, and on the operating system's rename for the commit.
"""
