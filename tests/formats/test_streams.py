"""Plain and compressed files as streams of bytes, and the checksum of what was read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import DataError
from dataflare.formats.checksum import BLOCK_BYTES, ReadChecksum
from dataflare.formats.compression import Compressor, detect, open_stream, split_extension

TEXT = "".join(f"row {n} é€\n" for n in range(20_000))


def pack(data: bytes, how: str) -> bytes:
    if how == "gzip":
        half = len(data) // 2
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    if how == "zstd":
        half = len(data) // 2
        one = zstandard.ZstdCompressor().compress
        return one(data[:half]) + one(data[half:])
    return data


def all_of(stream, size: int = 4_096) -> bytes:
    parts = list(iter(lambda: stream.read(size), b""))
    stream.close()
    return b"".join(parts)


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("offset", [0, 1, 100_000, 10_000_000])
def test_a_stream_from_an_offset_is_the_rest_of_the_whole(tmp_path, how, offset):
    path = tmp_path / "a"
    path.write_bytes(pack(TEXT.encode(), how))
    assert detect(path) == how
    assert all_of(open_stream(path, how, offset=offset)) == TEXT.encode()[offset:]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("how", ["none", "gzip"])
def test_other_encodings_come_out_as_utf8(tmp_path, encoding, how):
    path = tmp_path / "a"
    path.write_bytes(pack(TEXT.encode(encoding), how))
    text = all_of(open_stream(path, how, offset=7, encoding=encoding), 1_000)
    assert text == TEXT.encode()[7:]


def test_latin_1_never_fails(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)))
    text = all_of(open_stream(path, "none", encoding="latin-1"))
    assert text.decode() == bytes(range(256)).decode("latin-1")


def test_bytes_of_another_encoding_are_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc\xff")
    with pytest.raises(DataError) as caught:
        all_of(open_stream(path, "none", encoding="shift_jis"))
    assert caught.value.code == "E0504"
    assert str(caught.value) == f"{path} is not shift_jis: illegal multibyte sequence after byte 3"


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize("left", [0.2, 0.9])
def test_a_file_cut_short_says_so(tmp_path, how, left):
    path = tmp_path / "a"
    packed = pack(os.urandom(200_000), how)
    path.write_bytes(packed[: int(len(packed) * left)])
    with pytest.raises(DataError) as caught:
        all_of(open_stream(path, how))
    assert caught.value.code == "E0505"
    assert str(caught.value).startswith(f"{path} is damaged: ")


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_file_with_wrong_bytes_says_so(tmp_path, how):
    path = tmp_path / "a"
    packed = bytearray(pack(TEXT.encode(), how))
    packed[len(packed) // 3] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(DataError) as caught:
        all_of(open_stream(path, how))
    assert caught.value.code == "E0505"


def test_a_grown_file_is_read_to_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1\n2\n3\n")
    assert all_of(open_stream(path, "none", offset=2, limit=4)) == b"2\n"


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_each_member_can_be_inflated_by_itself(tmp_path, how):
    path = tmp_path / "a"
    compressor = Compressor(how)
    first = compressor.write(b"one\n") + compressor.write(b"two\n") + compressor.end_member()
    second = compressor.end_member() + compressor.write(b"three\n") + compressor.end_member()
    for data, expected in ((first, b"one\ntwo\n"), (second, b"three\n")):
        path.write_bytes(data)
        assert all_of(open_stream(path, how)) == expected
    path.write_bytes(first + second)
    assert all_of(open_stream(path, how)) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", (".csv", "none")),
        ("a.CSV.GZ", (".csv", "gzip")),
        ("a.b.ndjson.zst", (".ndjson", "zstd")),
        ("a.gz", ("", "gzip")),
        ("a", ("", "none")),
    ],
)
def test_a_name_promises_format_and_compression(tmp_path, name, expected):
    assert split_extension(tmp_path / name) == expected


@given(st.lists(st.integers(1, 3 * BLOCK_BYTES), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_checksum_does_not_depend_on_the_chunks(sizes, seed):
    data = (seed.to_bytes(5, "big") * (sum(sizes) // 5 + 1))[: sum(sizes)]
    whole, parts = ReadChecksum(), ReadChecksum()
    whole.update(data)
    place = 0
    for size in sizes:
        parts.update(data[place : place + size])
        place += size
        carried = ReadChecksum(parts.value)
        carried.update(data[place - place % BLOCK_BYTES : place])
        assert carried.value == parts.value
        parts = carried
    assert parts.value == whole.value


def test_a_checksum_notices_every_byte():
    data = bytearray(2 * BLOCK_BYTES + 10)
    values = set()
    for place in (0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 9):
        changed = bytearray(data)
        changed[place] = 1
        checksum = ReadChecksum()
        checksum.update(bytes(changed))
        values.add(checksum.value)
    assert len(values) == 4


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("plain.csv.gz", b"a,b\n1,2\n", "none"),
        ("plain.csv.zst", b"a,b\n1,2\n", "none"),
        ("packed.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"),
    ],
)
def test_the_first_bytes_say_how_a_file_is_compressed_and_not_its_name(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert detect(path) == found
    stream = open_stream(path, detect(path))
    assert stream.read(100) == b"a,b\n1,2\n"
    stream.close()
