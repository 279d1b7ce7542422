"""Where the data is in a literal map (flyte-events.md 7).

Structured datasets and blobs, at any depth of collections, maps and unions. Values (primitives, structs) are never
looked at, stored or logged.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flyteidl.core.literals_pb2 import Literal, LiteralMap
from google.protobuf.message import DecodeError

from flytelineage.errors import ObjectUnreadableError
from flytelineage.lineage.naming import normalise_uri

MAX_URI: Final = 4_096
"""Characters; a longer one names no object in any store that we know (S3 keys: 1,024 bytes)."""


_HIDING: Final = frozenset({"binary", "generic", "schema"})
_HIDDEN: Final = ("", "")
"""Stands for locations that are there, perhaps, and not seen."""


class DataRef(NamedTuple):
    """One location in a variable: normalised URI, and the literal's format (empty: not told)."""

    variable: str
    uri: str
    format: str


def parse_literals(data: bytes, uri: str) -> LiteralMap:
    """Parse a literal map as it lies in the metadata bucket.

    Raises:
        ObjectUnreadableError: it is none.
    """
    try:
        return LiteralMap.FromString(data)
    except DecodeError as error:
        msg = f"{uri} is no literal map"
        raise ObjectUnreadableError(msg) from error


def data_refs(literals: LiteralMap) -> tuple[DataRef, ...]:
    """Every location in a literal map, each once per variable, by variable, in the order of the values."""
    found: list[DataRef] = []
    variables = literals.literals
    for variable in sorted(variables):
        for uri, form in _locations(variables[variable]):
            place = normalise_uri(uri) if len(uri) <= MAX_URI else ""
            if place.rpartition(":")[2].strip("/"):  # more than a scheme
                found.append(DataRef(variable, place, form))
    return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)


def hides_data(literals: LiteralMap) -> bool:
    """Whether there may be locations in a literal map that :func:`data_refs` does not see.

    Those of dataclasses, of legacy schemas and of offloaded values: where one is, a location's absence proves nothing.
    """
    return any(_HIDDEN in _locations(literal) for literal in literals.literals.values())


def _locations(literal: Literal) -> list[tuple[str, str]]:
    """URI and format of each dataset below. Not recursive: values are as deep as somebody made them."""
    found = []
    pending: list[Any] = [literal]
    while pending:
        item = pending.pop()
        kind = item.WhichOneof("value")
        if kind == "scalar":
            scalar = item.scalar
            value = scalar.WhichOneof("value")
            if value == "structured_dataset":
                dataset = scalar.structured_dataset
                found.append((dataset.uri, dataset.metadata.structured_dataset_type.format))
            elif value == "blob":
                found.append((scalar.blob.uri, scalar.blob.metadata.type.format))
            elif value == "union":
                pending.append(scalar.union.value)
            elif value in _HIDING:
                found.append(_HIDDEN)
        elif kind == "offloaded_metadata":
            found.append(_HIDDEN)
        elif kind == "collection":
            pending.extend(reversed(item.collection.literals))
        elif kind == "map":
            pending.extend(item.map.literals[key] for key in sorted(item.map.literals, reverse=True))
    return found
