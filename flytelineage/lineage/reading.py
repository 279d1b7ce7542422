"""Reading what a node tree refers to: literal maps and data files' schemas, each once, in parallel.

What one execution's objects said is kept with its run (:class:`ReadData`) and not read again: literals expire from
buckets, places are written anew, and a known fact must not become an unknown one (DESIGN.md 2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
from flyteidl.core.literals_pb2 import LiteralMap

from flytelineage.errors import ObjectNotFoundError, ObjectUnreadableError, StorageUnavailableError
from flytelineage.lineage.build import FoundSchema, NodeData, WantedLiterals, WantedSchema, wanted_literals
from flytelineage.lineage.fold import Node, Tree
from flytelineage.lineage.literals import DataRef, data_refs, hides_data, parse_literals
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.lineage.types import Lineage, Made, Placed
from flytelineage.storage import Storage

log = logging.getLogger(__name__)

_WARNED: Final = 10_000
"""URIs whose warning is remembered, so that each is given once."""


class ObjectReader(Protocol):
    """What reading needs of storage; a benchmark or a test brings its own."""

    def literals(self, uris: Sequence[str]) -> Mapping[str, bytes | Exception]:
        """The bytes of literal maps by URI, or why there are none."""
        ...

    def schemas(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], FoundSchema | Exception | None]:
        """By (URI, format): what the file says of itself, None for formats that say nothing, or why it cannot."""
        ...


class PooledReader:
    """Reads through :class:`~flytelineage.storage.Storage`, ``parallel_reads`` at a time."""

    def __init__(self, storage: Storage, schemas: SchemaReader) -> None:
        self._storage = storage
        self._schemas = schemas
        self._pool = ThreadPoolExecutor(storage.parallel_reads, thread_name_prefix="reader")

    def literals(self, uris: Sequence[str]) -> Mapping[str, bytes | Exception]:
        """Read whole objects."""
        return dict(zip(uris, self._pool.map(_outcome(self._storage.read), uris), strict=True))

    def schemas(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], FoundSchema | Exception | None]:
        """Read footers."""
        return dict(zip(wanted, self._pool.map(_outcome(self._schema), wanted), strict=True))

    def _schema(self, wanted: tuple[str, str]) -> FoundSchema | None:
        facts = self._schemas.read(*wanted)
        return None if facts is None else FoundSchema(facts.fields, "file", facts.rows, facts.bytes)

    def close(self) -> None:
        """End the threads; reads under way end by their own timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcome(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(item: Any) -> Any:
        try:
            return read(item)
        except (ObjectUnreadableError, StorageUnavailableError) as error:
            return error

    return call


@dataclass(slots=True)
class ReadData:
    """What was read for one execution, as kept with its run.

    Attributes:
        nodes: by unique node id.
        lineage: as derived before, with the schemas of then; None: never.
    """

    nodes: dict[str, NodeData] = field(default_factory=dict)
    lineage: Lineage | None = None


def dump_data(nodes: Mapping[str, NodeData]) -> str:
    """Node data as stored."""
    document = {node: [_plain(data.inputs), _plain(data.outputs), *data[2:]] for node, data in nodes.items()}
    return orjson.dumps(document).decode()


def load_data(text: str) -> dict[str, NodeData]:
    """Undo :func:`dump_data`."""
    return {
        node: NodeData(_refs(inputs), _refs(outputs), *rest)
        for node, (inputs, outputs, *rest) in orjson.loads(text).items()
    }


def _plain(refs: tuple[DataRef, ...] | None) -> list[tuple[str, ...]] | None:
    return None if refs is None else [(ref.variable, ref.uri, ref.format) for ref in refs]


def _refs(values: list[list[str]] | None) -> tuple[DataRef, ...] | None:
    return None if values is None else tuple(DataRef(*value) for value in values)


@dataclass(slots=True)
class ReadCounts:
    """Objects that could not be read since the start."""

    literals_missing: int = 0
    literals_unreadable: int = 0
    schemas_unreadable: int = 0


class Reading:
    """Gathers what :func:`~flytelineage.lineage.build.build` needs, for several executions at once."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self._warned: dict[str, None] = {}
        self.counts = ReadCounts()

    def read_nodes(
        self, trees: Sequence[tuple[Tree, ReadData]], *, patient: Sequence[bool]
    ) -> list[dict[str, NodeData] | StorageUnavailableError]:
        """Find the data locations of every node that runs code.

        Args:
            trees: with what is known of each from before.
            patient: per tree, whether storage that does not answer is waited for; else it is unknown.

        Returns:
            Per tree: the data by unique node id, or the reason to try again later.
        """
        wanted = [[(w, known.nodes.get(w.node_id, _UNKNOWN)) for w in wanted_literals(tree)] for tree, known in trees]
        uris = {
            uri
            for items in wanted
            for item, known in items
            for uri, have in ((item.input_uri, known.input_uri), (item.output_uri, known.output_uri))
            if uri and (uri != have or (known.inputs if uri == item.input_uri else known.outputs) is None)
        }
        found = self._objects.literals(sorted(uris))
        results: list[dict[str, NodeData] | StorageUnavailableError] = []
        for (tree, _), items, waits in zip(trees, wanted, patient, strict=True):
            try:
                results.append(
                    {w.node_id: self._node(tree.nodes[w.node_id], w, known, found, waits) for w, known in items}
                )
            except StorageUnavailableError as error:
                results.append(error)
        return results

    def _node(
        self, node: Node, wanted: WantedLiterals, known: NodeData, found: Mapping[str, bytes | Exception], waits: bool
    ) -> NodeData:
        """What is inline, else what was read before, else what was read now."""
        inputs, hidden = (known.inputs, known.hidden) if known.input_uri == node.input_uri else (None, False)
        outputs = known.outputs if known.output_uri == node.output_uri else None
        literals = node.inputs
        if literals is None and inputs is None and wanted.input_uri:
            literals = self._parse(wanted.input_uri, found, waits)
        if literals is not None:
            inputs, hidden = data_refs(literals), hides_data(literals)
        literals = node.outputs if node.done else None
        if literals is None and outputs is None and wanted.output_uri:
            literals = self._parse(wanted.output_uri, found, waits)
        if literals is not None:
            outputs = data_refs(literals)
        return NodeData(inputs, outputs, hidden, node.input_uri, node.output_uri)

    def _parse(self, uri: str, found: Mapping[str, bytes | Exception], waits: bool) -> LiteralMap | None:
        value = found[uri]
        try:
            if isinstance(value, Exception):
                raise value
            return parse_literals(value, uri)
        except ObjectNotFoundError:
            self.counts.literals_missing += 1  # normal: tasks without outputs, skipped nodes (flyte-events.md 3)
        except ObjectUnreadableError as error:
            self.counts.literals_unreadable += 1
            self._warn(uri, error, "literals_unreadable")
        except StorageUnavailableError:
            if waits:
                raise
            self.counts.literals_unreadable += 1
        return None

    def read_schemas(
        self, wanted: Sequence[tuple[Sequence[WantedSchema], ReadData]], *, patient: Sequence[bool]
    ) -> list[dict[Made | Placed, FoundSchema] | StorageUnavailableError]:
        """Find the schemas of the datasets of several executions; as :meth:`read_nodes`."""
        before = [_schemas_of(known.lineage) for _, known in wanted]
        missing = {
            (item.uri, item.format)
            for (items, _), seen in zip(wanted, before, strict=True)
            for item in items
            if (item.ref, item.uri) not in seen
        }
        found = self._objects.schemas(sorted(missing))
        results: list[dict[Made | Placed, FoundSchema] | StorageUnavailableError] = []
        for (items, _), seen, waits in zip(wanted, before, patient, strict=True):
            schemas: dict[Made | Placed, FoundSchema] = {}
            failure: StorageUnavailableError | None = None
            for item in items:
                value = seen.get((item.ref, item.uri)) or found.get((item.uri, item.format))
                if isinstance(value, FoundSchema):
                    schemas[item.ref] = value
                elif isinstance(value, StorageUnavailableError) and waits:
                    failure = value
                elif isinstance(value, Exception):
                    self.counts.schemas_unreadable += 1
                    self._warn(item.uri, value, "schema_unreadable")
            results.append(failure or schemas)
        return results

    def _warn(self, uri: str, error: Exception, action: str) -> None:
        """Once per URI: an execution may be derived many times."""
        if uri not in self._warned:
            if len(self._warned) >= _WARNED:
                self._warned.clear()
            self._warned[uri] = None
            log.warning("Lineage goes on without it: %s", error, extra={"action": action})


def _schemas_of(lineage: Lineage | None) -> dict[tuple[Made | Placed, str], FoundSchema]:
    """The schemas that an earlier derivation of the execution found, by dataset and first location."""
    datasets: Iterable[Any] = () if lineage is None else lineage.datasets
    return {
        (d.ref, d.uris[0]): FoundSchema(d.fields, d.schema_source, d.rows, d.bytes)
        for d in datasets
        if d.uris and d.fields is not None
    }


_UNKNOWN: Final = NodeData(None, None)
