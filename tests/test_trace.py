import gzip
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from connectors.event import Block, Reject
from connectors.lines import CHUNK_BYTES
from connectors.names import Names
from connectors.sources import LONGEST_RECORD, Decoded
from connectors.sources.suricata_flow import SuricataFlow
from connectors.sources.table import Table, parse_mapping
from connectors.sources.zeek_conn import ZeekConn
from connectors.trace import TraceError, detect, open_trace
from tests.shared import data, samples

GOOD: dict[str, Any] = json.loads(ZeekConn.example)
MAPPING = parse_mapping(
    'stream="flow"\naction="connect"\nuid="id"\nlabel="attack"\ntime={column="ts", format="s"}\n'
    'actor={column="src", kind="ip"}\nobject={column="dst", kind="ip"}\n',
    "test.toml",
)


def conn(i: int) -> bytes:
    return json.dumps({**GOOD, "uid": f"C{i}", "ts": 1591367999 + i}).encode()


def conns(n: int) -> bytes:
    return b"".join(conn(i) + b"\n" for i in range(n))


def written(folder: Path, content: bytes, name: str = "conn.log") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read(path: Path, source: str | None = "zeek_conn", batch_records: int = 4096) -> list[Decoded]:
    return list(open_trace(path, source, None, Names(), batch_records))


def whole(batches: list[Decoded]) -> tuple[list[int], list[str], list[tuple[int, str]]]:
    """Record numbers, uids, and rejects of all batches."""
    return (
        [record for batch in batches for record in batch.block.record.tolist()],
        [uid for batch in batches for uid in batch.block.uid],
        [(reject.record, reject.reason) for batch in batches for reject in batch.rejects],
    )


def two_members(content: bytes) -> bytes:
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:])


def two_frames(content: bytes) -> bytes:
    half = len(content) // 2
    return zstandard.compress(content[:half]) + zstandard.compress(content[half:])


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "no last line break": lambda content: content[:-1],
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "windows": lambda content: content.replace(b"\n", b"\r\n"),
    "gzip": gzip.compress,
    "gzip of two members": two_members,
    "gzip with padding": lambda content: gzip.compress(content) + bytes(1000),
    "zstd": zstandard.compress,
    "zstd of two frames": two_frames,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_file_reads_the_same_however_it_is_packed(tmp_path: Path, packing: str) -> None:
    path = written(tmp_path, PACKINGS[packing](conns(3000)), "any-name-will-do")
    trace = open_trace(path, None, None, Names())
    assert trace.source == "zeek_conn"
    assert whole(list(trace)) == (list(range(3000)), [f"C{i}" for i in range(3000)], [])
    assert trace.bytes_read == trace.total_bytes == path.stat().st_size


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_batches_have_at_most_the_size_asked_for_and_the_same_rows(tmp_path: Path, size: int) -> None:
    lines = conns(50) + b"\n \n" + b"no json\n" + conns(3)
    batches = read(written(tmp_path, lines), batch_records=size)
    assert max(len(batch.block) + len(batch.rejects) for batch in batches) <= size
    assert whole(batches) == ([*range(50), 53, 54, 55], [*(f"C{i}" for i in range(50)), "C0", "C1", "C2"], [(52, "malformed-json")])


def test_a_trace_can_be_read_twice(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, conns(10)), None, None, Names())
    assert whole(list(trace)) == whole(list(trace))


def test_progress_is_the_share_of_the_file_that_was_read(tmp_path: Path) -> None:
    content = b"".join(json.dumps({**GOOD, "uid": os.urandom(200).hex()}).encode() + b"\n" for _ in range(8000))
    trace = open_trace(written(tmp_path, gzip.compress(content)), None, None, Names(), 500)
    seen = [trace.bytes_read for _ in trace]
    assert seen == sorted(seen)
    assert 0 < seen[0] < trace.total_bytes / 2
    assert len(set(seen)) > 3


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_lines_too_long_are_rejected_with_their_number_and_the_rest_is_read(tmp_path: Path, packing: str) -> None:
    long = json.dumps({**GOOD, "history": "x" * LONGEST_RECORD}).encode()
    longer = b"y" * (3 * CHUNK_BYTES + 5)
    content = b"\n".join([conn(0), long, conn(2), longer, longer, conn(5), longer])
    batches = read(written(tmp_path, PACKINGS[packing](content)))
    assert whole(batches) == ([0, 2, 5], ["C0", "C2", "C5"], [(1, "too-long"), (3, "too-long"), (4, "too-long"), (6, "too-long")])
    messages = [reject.message for batch in batches for reject in batch.rejects]
    assert f"line of {len(longer)} bytes, at most {LONGEST_RECORD} are read" in messages


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_compressed_file_cut_short_gives_what_came_before_and_one_reject(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = b"".join(json.dumps({**GOOD, "uid": f"C{i}", "noise": os.urandom(150).hex()}).encode() + b"\n" for i in range(4000))
    packed = pack(content)
    for share in (0.3, 0.7, 0.999):
        batches = read(written(tmp_path, packed[: int(len(packed) * share)]))
        records, uids, rejects = whole(batches)
        assert len(records) > 4000 * share * 0.5
        assert uids == [f"C{i}" for i in range(len(records))]
        assert rejects == [(len(records), "truncated-file")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_damaged_compressed_data_gives_what_came_before_and_one_reject(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = b"".join(json.dumps({**GOOD, "uid": f"C{i}", "noise": os.urandom(150).hex()}).encode() + b"\n" for i in range(4000))
    packed = bytearray(pack(content))
    middle = CHUNK_BYTES // 8 * 5 // 2  # half-way through the third piece of the file that is read
    assert middle < len(packed) * 0.8
    packed[middle : middle + 64] = b"\xff" * 64
    records, uids, rejects = whole(read(written(tmp_path, bytes(packed))))
    whole_lines = int(4000 * middle / len(packed) * 0.98)
    assert len(records) > whole_lines
    assert uids[:whole_lines] == [f"C{i}" for i in range(whole_lines)]
    assert rejects[-1][1] == "corrupt-file"


def test_lines_right_before_damage_in_gzip_data_are_kept(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(conns(300)) + packer.flush(zlib.Z_FULL_FLUSH)
    no_block = b"\x07" * 200  # deflate has no third kind of block
    assert whole(read(written(tmp_path, packed + no_block))) == (
        list(range(300)),
        [f"C{i}" for i in range(300)],
        [(300, "corrupt-file")],
    )


def test_a_small_file_that_unpacks_to_much_is_read_in_steps(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"x" * (64 << 20)) + gzip.compress(b"\n" + conn(1)))
    tracemalloc.start()
    try:
        found = whole(read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ([1], ["C1"], [(0, "too-long")])
    assert peak < 16 << 20


CSV = b"ts,src,dst,id,attack\n" + b"".join(b"%d,10.0.0.%d,10.0.1.1,r%d,-\n" % (1700000000 + i, i % 200, i) for i in range(500))


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_csv_records_count_from_the_line_after_the_header(tmp_path: Path, size: int) -> None:
    lines = CSV.splitlines(keepends=True)
    lines[11:11] = [b"only,three,cells\n", b"\n", b'1700000000,10.0.0.1,10.0.0.2,"a, b",neptune\n']
    batches = list(open_trace(written(tmp_path, b"".join(lines)), None, MAPPING, Names(), size))
    records, uids, rejects = whole(batches)
    assert records == [*range(10), *range(12, 503)]
    assert uids == [*(f"r{i}" for i in range(10)), "a, b", *(f"r{i}" for i in range(10, 500))]
    assert rejects == [(10, "wrong-columns")]  # line 12 of the file
    assert [label for batch in batches for label in batch.block.label or []].count("neptune") == 1


def test_csv_parquet_and_json_lines_of_one_table_give_the_same_rows(tmp_path: Path) -> None:
    rows = [dict(zip(CSV.decode().splitlines()[0].split(","), line.split(","), strict=True)) for line in CSV.decode().splitlines()[1:]]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t", row_group_size=100)
    files = [
        written(tmp_path, gzip.compress(CSV), "t.csv"),
        written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows), "t.jsonl"),
        tmp_path / "t",
    ]
    found = []
    for path in files:
        names = Names()
        trace = open_trace(path, "table", MAPPING, names, 77)
        block = Block.concat([decoded.block for decoded in trace])
        found.append((block.time.tolist(), [names.values[code] for code in block.actor], block.uid, block.label, block.record.tolist()))
        assert trace.bytes_read == trace.total_bytes
    assert found[0] == found[1] == found[2]
    assert found[0][4] == list(range(500))


def test_damaged_parquet_is_one_reject_or_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{name: str(i) for name in ("ts", "src", "dst", "id", "attack")} for i in range(9)]), path
    )
    content = bytearray(path.read_bytes())
    with pytest.raises(TraceError, match="cut"):
        open_trace(written(tmp_path, bytes(content[: len(content) // 2]), "cut"), None, MAPPING, Names())
    content[4:120] = b"\xff" * 116
    batches = list(open_trace(written(tmp_path, bytes(content)), None, MAPPING, Names()))
    assert [reject.reason for reject in batches[-1].rejects][-1] == "corrupt-file"


@pytest.mark.parametrize(
    ("record", "source"),
    [(GOOD, "zeek_conn"), ({"_path": "dns", "ts": 1}, "zeek_conn"), (json.loads(SuricataFlow.example), "suricata_flow")],
)
def test_the_format_is_found_by_the_first_records_that_any_source_knows(tmp_path: Path, record: dict[str, Any], source: str) -> None:
    path = written(tmp_path, b"\n\x00\x01 broken\n" + b'{"unknown": 1}\n' + json.dumps(record).encode())
    assert detect(path) == source


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n \n\r\n", "holds nothing but blank lines"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(200), "a binary file (it begins with 7f 45 4c 46"),
        (gzip.compress(b"\x00\x01\x02\x03" * 50), "a binary file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a binary file"),
        ("{}".encode("utf-16"), "UTF-16 text"),
        (b'[{"a": 1}]', "a JSON array; one JSON record a line is expected"),
        (b'{"a": 1}\n', "JSON records of no known format"),
        (b'{\n "a": 1\n}\n', "not one JSON record a line"),
        (b'{"kind": "PodList", "apiVersion": "v1", "items": []}\n', "a Kubernetes list in one document"),
        (b'{"flow": {"verdict": "FORWARDED", "IP": {}}}\n', "Cilium Hubble flows: a format this release does not read"),
        (CSV, "a table that begins 'ts,src,dst,id,attack': name its columns with --mapping FILE"),
        (b"PAR1....PAR1", "a Parquet file: name its columns with --mapping FILE"),
        (gzip.compress(conns(50))[:12], "the file was cut short"),
        (b"\x1f\x8b\xff\xff\xff", "gzip data is damaged"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "zstandard data is damaged"),
        (b"z" * (LONGEST_RECORD + 1), "bytes, at most"),
    ],
)
def test_what_is_no_trace_is_refused_with_what_was_found(tmp_path: Path, content: bytes, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(TraceError) as error:
        detect(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)


def test_formats_of_later_releases_among_the_samples_are_refused_by_name(tmp_path: Path) -> None:
    for name, says in (("hubble_flow_1.19.jsonl", "Cilium Hubble"), ("sacct_json_26.05.5_v0.0.45.json", "slurm_jobcomp")):
        with pytest.raises(TraceError, match=says):
            detect(samples() / name)
    for line in (samples() / "misc_real_records.jsonl").read_bytes().splitlines():
        named = json.loads(line)
        if any(word in named["_src"] for word in ("CloudTrail", "MinIO", "nvtrust", "goflow2")):
            with pytest.raises(TraceError, match="a format this release does not read"):
                detect(written(tmp_path, json.dumps(named["record"]).encode()))


def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path, "is a directory"), (tmp_path / "none", "No such file"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(TraceError, match=says):
            detect(path)
    with pytest.raises(TraceError, match="cannot be read"):
        detect(tmp_path / "nul\0name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = written(tmp_path, conns(1))
    path.chmod(0)
    with pytest.raises(TraceError, match="Permission denied"):
        detect(path)


def test_source_and_mapping_must_fit_each_other_and_the_file(tmp_path: Path) -> None:
    log, table = written(tmp_path, conns(1)), written(tmp_path, CSV, "t.csv")
    for path, source, mapping, says in (
        (log, "zeek", None, "no source is called 'zeek'; there are .*zeek_conn"),
        (log, "zeek_conn", MAPPING, "a mapping is for the source table"),
        (table, "table", None, "give --mapping FILE"),
        (table, "zeek_conn", None, "zeek_conn reads one JSON record a line; this is a table"),
        (written(tmp_path, b"a,b\n1,2\n", "u.csv"), None, MAPPING, "column 'ts' is there 0 times"),
    ):
        with pytest.raises(TraceError, match=says):
            open_trace(path, source, mapping, Names())


def test_bindings_rejects_and_rows_carry_the_record_number_of_the_file(tmp_path: Path) -> None:
    content = conns(5) + b"\n" + b'{"ts": "x"}\n' + conns(2)
    batches = read(written(tmp_path, content), batch_records=3)
    assert [reject for batch in batches for reject in batch.rejects] == [
        Reject(6, "missing:id.orig_h", "Object missing required field `id.orig_h`", b'{"ts": "x"}')
    ]
    assert np.concatenate([batch.block.record for batch in batches]).tolist() == [0, 1, 2, 3, 4, 7, 8]


def test_recorded_zeek_days_are_detected_and_read() -> None:
    for day, events in (("day1", 613), ("day2", 1172)):
        trace = open_trace(data() / f"apt29-zeek-{day}.jsonl.gz", None, None, Names())
        batches = list(trace)
        assert (trace.source, sum(len(batch.block) for batch in batches), whole(batches)[2]) == ("zeek_conn", events, [])


def test_a_table_source_never_claims_a_file() -> None:
    assert not Table.recognises(GOOD)
