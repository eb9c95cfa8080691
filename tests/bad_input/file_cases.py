"""Files that are missing, of another kind, cut off or changed; rows that do not fit."""

from __future__ import annotations

import gzip
from pathlib import Path

from bad_case import Case


def reading(options: str) -> str:
    """A workflow that reads files; the options stand in line 4."""
    return f"""\
name: w
sources:
  a:
    config: {{{options}}}
    type: file
destinations:
  z: {{type: blackhole, inputs: [a]}}
"""


def writing(options: str) -> str:
    """A workflow that writes a row into files; the options stand in line 6."""
    return f"""\
name: w
sources:
  a: {{type: inline, config: {{rows: [{{id: 1, land: DE}}]}}}}
destinations:
  z:
    config: {{{options}}}
    type: file
    inputs: [a]
"""


def parquet(path: Path) -> bytes:
    """A Parquet file of a thousand rows; its bytes too."""
    import polars as pl

    frame = pl.DataFrame({"id": range(1000), "text": [f"text {i}" for i in range(1000)]})
    frame.write_parquet(path, compression="zstd")
    return path.read_bytes()


def other_parquet(path: Path) -> None:
    import polars as pl

    pl.DataFrame({"number": ["x"]}).write_parquet(path)


def short_parquet(path: Path) -> None:
    path.write_bytes(parquet(path)[:-200])


def flipped_parquet(path: Path) -> None:
    data = bytearray(parquet(path))
    data[8:68] = bytes(each ^ 0xFF for each in data[8:68])
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.write_text("id\n1\n")
    path.chmod(0)


LINES = "id,land\n" + "".join(f"{i},DE\n" for i in range(5000))
ZIPPED = gzip.compress(LINES.encode(), mtime=0)

CASES = [
    Case(
        "a missing file",
        reading("path: orders.csv"),
        status=1,
        files={"order.csv": "id\n1\n"},
        says="""\
error[E0601]: no such file: orders.csv (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: orders.csv}
  |                    ^^^^^^^^^^
   = help: did you mean 'order.csv'?
""",
    ),
    Case(
        "a missing folder",
        reading("path: data/orders.csv"),
        status=1,
        says="""\
error[E0601]: no such file: data/orders.csv (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: data/orders.csv}
  |                    ^^^^^^^^^^^^^^^
   = help: the folder data does not exist either
""",
    ),
    Case(
        "a glob without a match",
        reading("path: 'data/*.csv'"),
        status=1,
        files={"data/a.txt": "x"},
        says="""\
error[E0601]: no file matches data/*.csv (step 'a')
 --> w.yaml:4:21
  |
4 |     config: {path: 'data/*.csv'}
  |                     ^^^^^^^^^^
   = help: looked in data
""",
    ),
    Case(
        "an empty folder",
        reading("path: data, format: csv"),
        status=1,
        files={"data": folder},
        says="""\
error[E0601]: the folder data has no files (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: data, format: csv}
  |                    ^^^^
   = help: put files there, or choose another path
""",
    ),
    Case(
        "a file that says no format",
        reading("path: data.xyz"),
        files={"data.xyz": "id\n1\n"},
        says="""\
error[E0403]: the name of data.xyz does not say its format (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: data.xyz}
  |                    ^^^^^^^^
   = help: set 'format' to one of: csv, ndjson, json, parquet, arrow, excel
""",
    ),
    Case(
        "an unknown format",
        reading("path: in.csv, format: cvs"),
        files={"in.csv": "id\n1\n"},
        says="""\
error[E0405]: wrong value for 'format' in step 'a'
 --> w.yaml:4:36
  |
4 |     config: {path: in.csv, format: cvs}
  |                                    ^^^
   = expected: one of 'auto', 'csv', 'ndjson', 'json', 'parquet', 'arrow', 'excel'
   = found: text 'cvs'
   = help: did you mean 'csv'?
""",
    ),
    Case(
        "a file without rights",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": unreadable},
        unless_root=True,
        says="""\
error[E0602]: permission denied: in.csv (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = help: reading it needs other rights
""",
    ),
    Case(
        "a file that is empty",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": ""},
        says="""\
error[E0507]: in.csv is empty: it has no header line (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = help: write the header line, or leave the file out of 'path'
""",
    ),
    Case(
        "an empty Parquet file",
        reading("path: in.parquet"),
        status=1,
        files={"in.parquet": b""},
        says="""\
error[E0505]: in.parquet cannot be read: A Parquet file must contain a header and footer with at least 12 bytes
 --> w.yaml:4:20
  |
4 |     config: {path: in.parquet}
  |                    ^^^^^^^^^^
   = help: if it is whole, set 'format' to what it holds; if not, fetch it again
""",
    ),
    Case(
        "a ragged row",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": "id,land\n1,DE\n2,FR,x\n3\n"},
        says="""\
error[E0502]: step 'a': in.csv line 3: 3 fields where 2 were expected
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = the row: 2,FR,x
   = help: set 'delimiter', 'quote', 'escape', 'comment' or 'skip_rows' if the file has its own, fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a short row",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": "id,land\n1,DE\n2\n"},
        says="""\
error[E0502]: step 'a': in.csv line 3: 1 field where 2 were expected
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = the row: 2
   = help: set 'delimiter', 'quote', 'escape', 'comment' or 'skip_rows' if the file has its own, fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a cell that does not fit the contract",
        reading("path: in.csv").replace(
            "type: file", "type: file\n    schema: {id: int64, land: string}"
        ),
        status=1,
        files={"in.csv": "id,land\n1,DE\nx2,FR\n"},
        says="""\
error[E0501]: step 'a': in.csv line 3: column 'id': 'x2' is not an int64
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = the row: x2,FR
   = help: say the column's type in 'schema' (string keeps any text); for numbers such as 1.234,50 set decimal: ','; fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a cell behind the sample that does not fit",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": "id\n" + "1\n" * 200_000 + "many\n"},
        says="""\
error[E0501]: step 'a': in.csv line 200002: column 'id': 'many' is not an int64
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = the row: many
   = help: say the column's type in 'schema' (string keeps any text); for numbers such as 1.234,50 set decimal: ','; fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a schema that names a column the file has not",
        reading("path: in.csv").replace("type: file", "type: file\n    schema: {idd: int64}"),
        status=1,
        files={"in.csv": "id,land\n1,DE\n"},
        says="""\
error[E0508]: in.csv has no column 'idd', which 'schema' names (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = it has: id, land
   = help: did you mean 'id'?
""",
    ),
    Case(
        "a link that leads nowhere",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": lambda path: path.symlink_to("gone.csv")},
        says="""\
error[E0601]: no such file: in.csv (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = help: in.csv is a link to gone.csv, which leads nowhere
""",
    ),
    Case(
        "a column with the name of an internal one",
        reading("path: in.csv"),
        files={"in.csv": "__dataflare_kind,id\n1,2\n"},
        says="""\
error[E0310]: step 'a' makes a column '__dataflare_kind': names that begin with '__dataflare_' are reserved
 --> w.yaml:5:11
  |
5 |     type: file
  |           ^^^^
   = help: rename it where the rows come from, or list the columns to read: columns: [...]
""",
    ),
    Case(
        "a quote that is not closed",
        reading("path: in.csv"),
        status=1,
        files={"in.csv": 'id,land\n1,"DE\n2,FR\n'},
        says="""\
error[E0506]: step 'a': in.csv line 2: a quote is opened and never closed
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv}
  |                    ^^^^^^
   = the row: 1,"DE
   = help: set 'quote' or 'escape' if the file has others, fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a NUL byte in CSV",
        reading("path: in.csv, columns: [id]"),
        status=1,
        files={"in.csv": b"id,land\n1,D\0E\n2\0,FR\n"},
        says="""\
error[E0504]: step 'a': in.csv line 2: contains a NUL byte
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv, columns: [id]}
  |                    ^^^^^^
   = the row: 1,D\\x00E
   = help: set 'encoding' if the text has another one, fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "latin-1 read as UTF-8",
        reading("path: in.csv, encoding: utf-8"),
        status=1,
        files={"in.csv": "id,land\n1,Österreich\n".encode("latin-1")},
        says="""\
error[E0504]: step 'a': in.csv line 2: not valid UTF-8 at byte 3 of the row
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv, encoding: utf-8}
  |                    ^^^^^^
   = the row: 1,\ufffdsterreich
   = help: set 'encoding' if the text has another one, fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "UTF-16 read as UTF-8",
        reading("path: in.csv, encoding: utf-8"),
        status=1,
        files={"in.csv": "id,land\n1,DE\n".encode("utf-16")},
        says="""\
error[E0504]: the header of in.csv is not UTF-8 (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv, encoding: utf-8}
  |                    ^^^^^^
   = help: it begins like UTF-16: set 'encoding' to utf-16
""",
    ),
    Case(
        "an unknown encoding",
        reading("path: in.csv, encoding: utf-99"),
        files={"in.csv": "id\n1\n"},
        says="""\
error[E0405]: 'encoding' in step 'a' is not a known encoding: utf-99
 --> w.yaml:4:38
  |
4 |     config: {path: in.csv, encoding: utf-99}
  |                                      ^^^^^^
""",
    ),
    Case(
        "a delimiter of two characters",
        reading("path: in.csv, delimiter: '||'"),
        files={"in.csv": "id\n1\n"},
        says="""\
error[E0405]: 'delimiter' in step 'a' must be one ASCII character
 --> w.yaml:4:39
  |
4 |     config: {path: in.csv, delimiter: '||'}
  |                                       ^^^^
""",
    ),
    Case(
        "a broken line of NDJSON",
        reading("path: in.ndjson"),
        status=1,
        files={"in.ndjson": '{"id": 1}\n{"id": 2\n{"id": 3}\n'},
        says="""\
error[E0503]: step 'a': in.ndjson line 2: not valid JSON: unexpected end of data at character 9
 --> w.yaml:4:20
  |
4 |     config: {path: in.ndjson}
  |                    ^^^^^^^^^
   = the row: {"id": 2
   = help: fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "a line of NDJSON that is a number",
        reading("path: in.ndjson"),
        status=1,
        files={"in.ndjson": '{"id": 1}\n2\n'},
        says="""\
error[E0503]: step 'a': in.ndjson line 2: not a JSON object but 2
 --> w.yaml:4:20
  |
4 |     config: {path: in.ndjson}
  |                    ^^^^^^^^^
   = the row: 2
   = help: fix the data, or set error_handling: {on_error: skip}
""",
    ),
    Case(
        "JSON that is not a list",
        reading("path: in.json"),
        status=1,
        files={"in.json": '"hello"'},
        says="""\
error[E0503]: in.json is not a JSON object but "hello"
 --> w.yaml:4:20
  |
4 |     config: {path: in.json}
  |                    ^^^^^^^
   = help: a JSON file holds one list of objects: [{"id": 1}, {"id": 2}]
""",
    ),
    Case(
        "JSON that breaks off",
        reading("path: in.json"),
        status=1,
        files={"in.json": '[{"id": 1}, {"id": '},
        says="""\
error[E0503]: in.json line 1 is not valid JSON: unexpected end of data (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.json}
  |                    ^^^^^^^
   = help: a file with one JSON object a line has the format ndjson
""",
    ),
    Case(
        "a Parquet file that breaks off",
        reading("path: in.parquet"),
        status=1,
        files={"in.parquet": short_parquet},
        says="""\
error[E0505]: in.parquet cannot be read: The file must end with PAR1 or PARE (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.parquet}
  |                    ^^^^^^^^^^
   = help: if it is whole, set 'format' to what it holds; if not, fetch it again
""",
    ),
    Case(
        "a Parquet file with changed bytes",
        reading("path: in.parquet").replace(
            "type: blackhole, inputs: [a]", "type: file, inputs: [a], config: {path: out.csv}"
        ),
        status=1,
        files={"in.parquet": flipped_parquet},
        says="""\
error[E0505]: in.parquet cannot be read: Invalid thrift: bad data (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.parquet}
  |                    ^^^^^^^^^^
   = help: if it is whole, set 'format' to what it holds; if not, fetch it again
""",
    ),
    Case(
        "CSV named Parquet",
        reading("path: in.parquet"),
        status=1,
        files={"in.parquet": LINES},
        says="""\
error[E0505]: in.parquet cannot be read: The file must end with PAR1 or PARE (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.parquet}
  |                    ^^^^^^^^^^
   = help: if it is whole, set 'format' to what it holds; if not, fetch it again
""",
    ),
    Case(
        "a gzip file that breaks off",
        reading("path: in.csv.gz"),
        status=1,
        files={"in.csv.gz": ZIPPED[:-2000]},
        says="""\
error[E0505]: in.csv.gz is damaged: Compressed file ended before the end-of-stream marker was reached (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv.gz}
  |                    ^^^^^^^^^
   = help: the file was truncated or changed while it was copied; fetch it again
""",
    ),
    Case(
        "a gzip file with changed bytes",
        reading("path: in.csv.gz"),
        status=1,
        files={"in.csv.gz": ZIPPED[:5000] + bytes(200) + ZIPPED[5200:]},
        says="""\
error[E0505]: in.csv.gz is damaged: Error -3 Invalid lookback distance found (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.csv.gz}
  |                    ^^^^^^^^^
   = help: the file was truncated or changed while it was copied; fetch it again
""",
    ),
    Case(
        "an invalid workbook",
        reading("path: in.xlsx"),
        status=1,
        files={"in.xlsx": LINES},
        says="""\
error[E0505]: in.xlsx is not a sound workbook: invalid Zip archive: Could not find EOCD
 --> w.yaml:4:20
  |
4 |     config: {path: in.xlsx}
  |                    ^^^^^^^
   = help: save it as .xlsx again; if its content has another format, set 'format' to that
""",
    ),
    Case(
        "an invalid Arrow file",
        reading("path: in.arrow"),
        status=1,
        files={"in.arrow": LINES},
        says="""\
error[E0505]: in.arrow cannot be read: out-of-spec: InvalidFooter (step 'a')
 --> w.yaml:4:20
  |
4 |     config: {path: in.arrow}
  |                    ^^^^^^^^
   = help: if it is whole, set 'format' to what it holds; if not, fetch it again
""",
    ),
    Case(
        "files of unlike columns",
        reading("path: 'data/*.parquet'"),
        status=1,
        files={"data/a.parquet": parquet, "data/b.parquet": other_parquet},
        says="""\
error[E0508]: data/b.parquet has none of the columns of data/a.parquet (step 'a')
 --> w.yaml:4:21
  |
4 |     config: {path: 'data/*.parquet'}
  |                     ^^^^^^^^^^^^^^
   = it has: number
   = expected: id, text
   = help: read it in a source of its own; a CSV file without a line of names needs has_header: false
""",
    ),
    Case(
        "a column asked for that is not there",
        reading("path: in.csv, columns: [id, lnad]"),
        status=2,
        files={"in.csv": "id,land\n1,DE\n"},
        says="""\
error[E0404]: 'columns' names 'lnad', which the files do not have (step 'a')
 --> w.yaml:4:42
  |
4 |     config: {path: in.csv, columns: [id, lnad]}
  |                                          ^^^^
   = they have: id, land
   = help: did you mean 'land'?
""",
    ),
    Case(
        "a folder where a file is to be written",
        writing("path: out.csv"),
        status=1,
        files={"out.csv/x.txt": "x"},
        says="""\
error[E0604]: out.csv is a folder, and one file is wanted there (step 'z')
 --> w.yaml:6:20
  |
6 |     config: {path: out.csv}
  |                    ^^^^^^^
   = help: end the path in a slash to write parts into the folder
""",
    ),
    Case(
        "a file where a folder is to be",
        writing("path: out, format: csv"),
        status=1,
        files={"out": "x"},
        says="""\
error[E0604]: out is a file, and a folder of parts is wanted there (step 'z')
 --> w.yaml:6:20
  |
6 |     config: {path: out, format: csv}
  |                    ^^^
   = help: give the path an extension to write one file
""",
    ),
    Case(
        "a folder that cannot be made",
        writing("path: taken/out.csv"),
        status=1,
        files={"taken": "x"},
        says="""\
error[E0604]: taken/out.csv cannot be written: taken is not a folder (step 'z')
 --> w.yaml:6:20
  |
6 |     config: {path: taken/out.csv}
  |                    ^^^^^^^^^^^^^
   = help: choose another path, or move that file away
""",
    ),
    Case(
        "a partition by an unknown column",
        writing("path: out, format: csv, partition_by: [lnad]"),
        says="""\
error[E0406]: 'partition_by' names 'lnad', which does not reach this step (step 'z')
 --> w.yaml:6:53
  |
6 |     config: {path: out, format: csv, partition_by: [lnad]}
  |                                                     ^^^^
   = it receives: id, land
   = help: did you mean 'land'?
""",
    ),
    Case(
        "lines that end in CR",
        """\
name: w
sources:
  a: {type: file, config: {path: in.csv}}
destinations:
  z: {type: blackhole, inputs: [a]}
""",
        status=1,
        files={"in.csv": "id,land\r1,DE\r"},
        says="""\
error[E0506]: the header of in.csv cannot be read: it contains a carriage return outside quotes
 --> w.yaml:3:34
  |
3 |   a: {type: file, config: {path: in.csv}}
  |                                  ^^^^^^
   = help: lines end in LF or CRLF: convert the line ends of the file
""",
    ),
]
