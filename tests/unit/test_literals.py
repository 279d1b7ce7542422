"""Where the data is in a literal map."""

from __future__ import annotations

from typing import Any

import pytest
from flyteidl.core import literals_pb2
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.errors import ObjectUnreadableError
from flytelineage.lineage.literals import MAX_URI, DataRef, data_refs, hides_data, parse_literals
from tests.support.events import literals, unhurried


def only(literal: Any) -> tuple[DataRef, ...]:
    found = literals_pb2.LiteralMap()
    found.literals["v"].CopyFrom(literal)
    return data_refs(found)


def structured_dataset(uri: str, form: str = "") -> Any:
    found = literals_pb2.Literal()
    found.scalar.structured_dataset.uri = uri
    found.scalar.structured_dataset.metadata.structured_dataset_type.format = form
    return found


def blob(uri: str, form: str = "", dimensionality: int = 0) -> Any:
    found = literals_pb2.Literal()
    found.scalar.blob.uri = uri
    found.scalar.blob.metadata.type.format = form
    found.scalar.blob.metadata.type.dimensionality = dimensionality
    return found


def union(inner: Any) -> Any:
    found = literals_pb2.Literal()
    found.scalar.union.value.CopyFrom(inner)
    return found


def none() -> Any:
    found = literals_pb2.Literal()
    found.scalar.none_type.SetInParent()
    return found


def collection(*items: Any) -> Any:
    found = literals_pb2.Literal()
    found.collection.SetInParent()
    found.collection.literals.extend(items)
    return found


def mapping(**items: Any) -> Any:
    found = literals_pb2.Literal()
    found.map.SetInParent()
    for key, item in items.items():
        found.map.literals[key].CopyFrom(item)
    return found


def test_a_structured_dataset() -> None:
    assert only(structured_dataset("s3://b/x", "parquet")) == (DataRef("v", "s3://b/x", "parquet"),)


def test_a_structured_dataset_of_another_store() -> None:
    assert only(structured_dataset("bq://p:d.t", "bigquery")) == (DataRef("v", "bq://p:d.t", "bigquery"),)


@pytest.mark.parametrize("dimensionality", [0, 1], ids=["file", "directory"])
def test_a_blob(dimensionality: int) -> None:
    found = only(blob("s3://b/x/", "csv", dimensionality))
    assert found == (DataRef("v", "s3://b/x", "csv"),)


def test_uris_are_normalised() -> None:
    assert only(blob("s3a://b//x///")) == (DataRef("v", "s3://b/x", ""),)


def test_collections_maps_and_unions_at_any_depth() -> None:
    found = only(
        collection(
            structured_dataset("s3://b/1"),
            mapping(b=blob("s3://b/3"), a=union(structured_dataset("s3://b/2"))),
            union(collection(blob("s3://b/4"), none())),
        )
    )
    assert [item.uri for item in found] == ["s3://b/1", "s3://b/2", "s3://b/3", "s3://b/4"]
    assert {item.variable for item in found} == {"v"}


def test_a_location_counts_once_a_variable() -> None:
    assert len(only(collection(blob("s3://b/1"), blob("s3://b/1/"), blob("s3a://b/1")))) == 1
    assert len(data_refs(literals({"x": "s3://b/1", "y": "s3://b/1"}))) == 2


def test_values_are_not_looked_at() -> None:
    text = literals_pb2.Literal()
    text.scalar.primitive.string_value = "s3://b/in/a/string"
    number = literals_pb2.Literal()
    number.scalar.primitive.integer = 5
    assert only(text) == only(number) == only(none()) == only(literals_pb2.Literal()) == ()


@pytest.mark.parametrize("uri", ["", "/", "//", "s3://", "s3:", "s3:///", "file:///", "x" * (MAX_URI + 1)])
def test_a_uri_that_names_nothing_is_no_dataset(uri: str) -> None:
    assert only(blob(uri)) == ()


def test_variables_are_sorted() -> None:
    found = data_refs(literals({"b": "s3://x/b", "a": "s3://x/a"}))
    assert [item.variable for item in found] == ["a", "b"]


def test_deep_nesting_is_walked_without_recursion() -> None:
    literal = blob("s3://b/deep")
    for _ in range(40):  # protobuf itself refuses more than a hundred messages inside each other
        literal = collection(literal)
    assert [item.uri for item in only(literal)] == ["s3://b/deep"]


def hiding() -> list[Any]:
    found = [literals_pb2.Literal() for _ in range(4)]
    found[0].scalar.binary.tag = "msgpack"
    found[1].scalar.generic.fields["path"].string_value = "s3://b/x"
    found[2].scalar.schema.uri = "s3://b/x"
    found[3].offloaded_metadata.uri = "s3://b/x"
    return found


@pytest.mark.parametrize("literal", hiding(), ids=["dataclass", "struct", "legacy schema", "offloaded"])
def test_what_may_hold_data_that_is_not_seen_is_told_at_any_depth(literal: Any) -> None:
    for inner in (literal, collection(none(), literal), mapping(a=literal), union(collection(mapping(b=literal)))):
        found = literals_pb2.LiteralMap()
        found.literals["seen"].CopyFrom(blob("s3://b/seen"))
        found.literals["v"].CopyFrom(inner)
        assert hides_data(found)
        assert [item.uri for item in data_refs(found)] == ["s3://b/seen"]


def test_what_is_seen_whole_hides_nothing() -> None:
    number = literals_pb2.Literal()
    number.scalar.primitive.integer = 5
    found = literals({"a": "s3://b/x", "b": ["s3://b/y"], "c": union(blob("s3://b/z")), "d": none(), "e": number})
    assert not hides_data(found)
    assert not hides_data(literals({}))


def test_what_is_no_literal_map_is_unreadable() -> None:
    with pytest.raises(ObjectUnreadableError, match="s3://b/k is no literal map"):
        parse_literals(b"\xff\xff", "s3://b/k")


def test_a_literal_map_that_is_nested_too_deep_is_unreadable() -> None:
    data = b""
    for _ in range(200):
        inner = b"\x12" + _varint(len(data)) + data  # Literal.collection
        data = b"\x0a" + _varint(len(inner)) + inner  # LiteralCollection.literals
    entry = b"\x0a\x01v\x12" + _varint(len(data[1:])) + data[1:]
    with pytest.raises(ObjectUnreadableError):
        parse_literals(b"\x0a" + _varint(len(entry)) + entry, "s3://b/k")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_a_literal_map_or_unreadable(data: bytes) -> None:
    try:
        found = parse_literals(data, "s3://b/k")
    except ObjectUnreadableError:
        return
    data_refs(found)
