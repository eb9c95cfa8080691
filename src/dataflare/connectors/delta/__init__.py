"""Delta Lake tables, on this machine and in object stores. Depends on `sdk.lakes` for the protocol and on the
library deltalake for the log: data files are read and written here, with pyarrow."""
