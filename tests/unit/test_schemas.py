"""SchemaReader: footers of parquet files alone, and what is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flytelineage.errors import ObjectNotFoundError, ObjectUnreadableError
from flytelineage.lineage.schemas import TAIL_BYTES, FileFacts, SchemaReader
from flytelineage.model import Field
from flytelineage.storage import Storage

CORPUS = Path(__file__).parents[1] / "corpus" / "objects"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """The directory of ``s3://bucket``."""
    path = tmp_path / "objects" / "bucket"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def storage(bucket: Path) -> Storage:
    """Storage on that directory."""
    return Storage(objects=str(bucket.parent))


@pytest.fixture
def schemas(storage: Storage) -> SchemaReader:
    """What is tested."""
    return SchemaReader(storage=storage)


def test_arrow_types_are_named_whole(bucket: Path, schemas: SchemaReader) -> None:
    when = datetime(2026, 11, 21, tzinfo=UTC)
    schema = pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("count", pa.int64()),
            pa.field("at", pa.timestamp("us", tz="UTC")),
            pa.field("tags", pa.list_(pa.field("element", pa.string()))),
            pa.field("price", pa.decimal128(10, 2)),
            pa.field("point", pa.struct([("x", pa.float64()), ("y", pa.float64())])),
            pa.field("by_key", pa.map_(pa.string(), pa.int32())),
            pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    rows = [
        {
            "name": "n",
            "count": 1,
            "at": when,
            "tags": ["t"],
            "price": None,
            "point": None,
            "by_key": [("a", 1)],
            "kind": "k",
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), bucket / "types.parquet")
    facts = schemas.read("s3://bucket/types.parquet", "parquet")
    assert facts is not None
    assert facts.fields == (
        Field("name", "string", False),
        Field("count", "int64", True),
        Field("at", "timestamp[us, tz=UTC]", True),
        Field("tags", "list<element: string>", True),
        Field("price", "decimal128(10, 2)", True),
        Field("point", "struct<x: double, y: double>", True),
        Field("by_key", "map<string, int32 ('by_key')>", True),
        Field("kind", "dictionary<values=string, indices=int32, ordered=0>", True),
    )
    assert facts.rows == 1
    assert facts.bytes == (bucket / "types.parquet").stat().st_size


def test_recorded_structured_dataset_is_read() -> None:
    schemas = SchemaReader(storage=Storage(objects=str(CORPUS)))
    facts = schemas.read("s3://lake/gold/orders", "parquet")
    file = CORPUS / "lake" / "gold" / "orders" / "00000"
    arrow = pq.read_schema(file)
    assert facts == FileFacts(
        fields=tuple(Field(field.name, str(field.type), field.nullable) for field in arrow),
        rows=pq.read_metadata(file).num_rows,
        bytes=file.stat().st_size,
    )
    assert facts.fields


def test_only_the_tail_is_read(bucket: Path, storage: Storage, schemas: SchemaReader) -> None:
    table = pa.table({"number": pa.array(range(1_000_000))})
    pq.write_table(table, bucket / "large.parquet", compression="none", use_dictionary=False)
    assert (bucket / "large.parquet").stat().st_size > 7_000_000
    facts = schemas.read("s3://bucket/large.parquet", "parquet")
    assert facts is not None
    assert facts.rows == 1_000_000
    assert (storage.reads, storage.bytes_read) == (1, TAIL_BYTES)


def test_long_footer_takes_one_more_read_of_what_is_missing(
    bucket: Path, storage: Storage, schemas: SchemaReader
) -> None:
    table = pa.table({f"column_with_a_long_name_{number:05}": [number] for number in range(3000)})
    pq.write_table(table, bucket / "wide.parquet")
    data = (bucket / "wide.parquet").read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    assert footer > TAIL_BYTES
    facts = schemas.read("s3://bucket/wide.parquet", "parquet")
    assert facts is not None
    assert len(facts.fields) == 3000
    assert (storage.reads, storage.bytes_read) == (2, footer + 8)
    assert storage.bytes_read <= TAIL_BYTES + footer


def test_footer_over_the_bound_is_unreadable(bucket: Path, storage: Storage) -> None:
    pq.write_table(pa.table({"a": [1]}), bucket / "a.parquet")
    footer = int.from_bytes((bucket / "a.parquet").read_bytes()[-8:-4], "little")
    assert SchemaReader(storage=storage, max_footer_bytes=footer).read("s3://bucket/a.parquet", "parquet") is not None
    with pytest.raises(ObjectUnreadableError, match="max_footer_bytes"):
        SchemaReader(storage=storage, max_footer_bytes=footer - 1).read("s3://bucket/a.parquet", "parquet")


def test_footer_over_the_bound_is_not_read(bucket: Path, storage: Storage, schemas: SchemaReader) -> None:
    length = 17 * 1024 * 1024
    with (bucket / "bomb").open("wb") as file:
        file.truncate(length)
        file.seek(0, 2)
        file.write(length.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ObjectUnreadableError, match="max_footer_bytes"):
        schemas.read("s3://bucket/bomb", "parquet")
    assert storage.bytes_read == TAIL_BYTES


def test_directory_has_its_first_files_columns_and_all_files_bytes(bucket: Path, schemas: SchemaReader) -> None:
    directory = bucket / "table"
    directory.mkdir()
    pq.write_table(pa.table({"second": [1]}), directory / "00001")
    pq.write_table(pa.table({"first": [1]}), directory / "00000")
    (directory / "_SUCCESS").write_bytes(b"not data")
    facts = schemas.read("s3://bucket/table", "parquet")
    assert facts == FileFacts(
        fields=(Field("first", "int64", True),),
        rows=None,
        bytes=(directory / "00000").stat().st_size + (directory / "00001").stat().st_size,
    )


def test_directory_of_one_file_has_rows(bucket: Path, schemas: SchemaReader) -> None:
    (bucket / "table").mkdir()
    pq.write_table(pa.table({"a": [1, 2, 3]}), bucket / "table" / "00000")
    facts = schemas.read("s3://bucket/table/", "parquet")
    assert facts is not None
    assert facts.rows == 3


@pytest.mark.parametrize(("files", "known"), [(3, True), (4, False)])
def test_bytes_are_unknown_beyond_the_listing(files: int, known: bool, bucket: Path, storage: Storage) -> None:
    (bucket / "table").mkdir()
    for number in range(files):
        pq.write_table(pa.table({"a": [1]}), bucket / "table" / f"{number:05}")
    facts = SchemaReader(storage=storage, max_files=3).read("s3://bucket/table", "parquet")
    assert facts is not None
    assert (facts.bytes is not None) is known
    assert facts.rows is None


class _NoStorage(Storage):
    """Fails when anything is asked of it."""

    def _locate(self, uri: str) -> None:  # type: ignore[override]
        raise AssertionError(uri)


@pytest.mark.parametrize("format", ["", "csv", "delta", "parquet2", "PARQUET ", "\x00"])
def test_unknown_format_is_none_without_any_io(format: str) -> None:  # noqa: A002
    assert SchemaReader(storage=_NoStorage()).read("s3://bucket/table", format) is None


@pytest.mark.parametrize("format", ["parquet", "Parquet", "PARQUET"])
def test_format_is_known_in_any_case(format: str, bucket: Path, schemas: SchemaReader) -> None:  # noqa: A002
    pq.write_table(pa.table({"a": [1]}), bucket / "a")
    assert schemas.read("s3://bucket/a", format) is not None


def _whole() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _damaged_footer(data: bytes) -> bytes:
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -length - 8] + b"\x00" * length + data[-8:]


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"a,b\n1,2\n" * 100,
    "magic alone": lambda data: b"PAR1",
    "trailer alone": lambda data: b"\x00\x00\x00\x00PAR1",
    "cut off": lambda data: data[:-20],
    "footer longer than the file": lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    "footer length of all ones": lambda data: data[:-8] + b"\xff\xff\xff\xffPAR1",
    "zeros for a footer": _damaged_footer,
    "text for a footer": lambda data: b"x" * 200 + (100).to_bytes(4, "little") + b"PAR1",
    "encrypted": lambda data: data[:-4] + b"PARE",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_parquet_file_that_is_none_is_unreadable(name: str, bucket: Path, schemas: SchemaReader) -> None:
    (bucket / "bad").write_bytes(BAD_FILES[name](_whole()))
    with pytest.raises(ObjectUnreadableError) as caught:
        schemas.read("s3://bucket/bad", "parquet")
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert len(str(caught.value)) < 500
    assert "s3://bucket/bad" in str(caught.value)


def test_every_cut_of_a_footer_is_unreadable_or_read(bucket: Path, schemas: SchemaReader) -> None:
    data = _whole()
    length = int.from_bytes(data[-8:-4], "little")
    for position in range(len(data) - length - 8, len(data) - 8):
        flipped = bytearray(data)
        flipped[position] ^= 0xFF
        (bucket / "flipped").write_bytes(flipped)
        try:
            facts = schemas.read("s3://bucket/flipped", "parquet")
        except ObjectUnreadableError as error:
            assert len(str(error)) < 500  # noqa: PT017
        else:
            assert facts is not None


def test_errors_of_storage_come_through(schemas: SchemaReader) -> None:
    with pytest.raises(ObjectNotFoundError, match=re.escape("s3://bucket/none")):
        schemas.read("s3://bucket/none", "parquet")
    with pytest.raises(ObjectUnreadableError, match="not allowed"):
        schemas.read("file:///etc/passwd", "parquet")
