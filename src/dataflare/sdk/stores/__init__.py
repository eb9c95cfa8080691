"""Files of other machines: object stores (S3, Azure Blob, Google Cloud Storage), web servers, SFTP and FTP.

Never mixes two versions of a file: each read names the version that was listed. Depends on client libraries
that are extras, which are imported when a place of their kind is opened.
"""
