"""Executions of any size, made by multiplying a recorded one.

The recorded diamond (``tests/corpus/diamond``) is taken apart into what its workflow, its start- and end-node and its
first six task nodes said. Those six are laid side by side as often as needed: node ``n(6g+k)`` is the recorded node
``nk`` of block ``g``. A block reads its own data as recorded, and what joins blocks is ``join``'s second input: in even
blocks the first block's customers (a fan-out as wide as the execution), in odd ones the block before (a chain).

Names of executions, pipelines and nodes, times, URIs and the hexadecimal parts of URIs are replaced, in the events and
in the literal maps alike, so that every multiplied execution derives to real lineage: each task reads and writes what
its recorded one did. All else, the SNS envelope among it, is as recorded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from flyteidl.admin import event_pb2
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.descriptor import FieldDescriptor

from flytelineage.events.cloudevents import CloudEvent
from flytelineage.lineage.build import FoundSchema
from flytelineage.lineage.literals import data_refs
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.storage import Storage

Wire = Literal["external", "cloudevents"]
"""How events travel: protobuf requests, or CloudEvents v2 (JSON in a protobuf CloudEvent); both in SNS envelopes."""

CORPUS: Final = Path(__file__).resolve().parent.parent / "tests" / "corpus"
BLOCK: Final = 6
"""Recorded task nodes that are multiplied."""
RUNS: Final = 3
"""Runs of each pipeline, at every size: so the number of tasks and datasets does not depend on the size."""

_CASE: Final = "diamond"
_EXECUTION: Final = "orders-1"
_FLOW: Final = "flows.diamond"
_TOGETHER: Final = 16
"""Executions whose events are interleaved, as a queue does."""
_BLOCK_SECONDS: Final = 30
_NODE: Final = re.compile(r"\b" + re.escape(_EXECUTION) + r"([-/])(n\d+)\b")
_DATA_URI: Final = re.compile(rf"(/data/../{_EXECUTION}-)(n\d+)(-0/)([0-9a-f]{{32}})")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


@dataclass(slots=True)
class Workload:
    """Messages, and the objects that their executions refer to.

    Attributes:
        bodies: as SQS delivers them, in order.
        literals: literal maps by URI.
        schemas: what data files say of themselves, by URI and format.
        executions: how many there are.
        tasks: in each.
        pipelines: how many there are.
        edges: between tasks and datasets, in each.
    """

    bodies: list[str] = field(default_factory=list)
    literals: dict[str, bytes] = field(default_factory=dict)
    schemas: dict[tuple[str, str], FoundSchema] = field(default_factory=dict)
    executions: int = 0
    tasks: int = 0
    pipelines: int = 0
    edges: int = 0


@dataclass(frozen=True, slots=True)
class _Name:
    """A multiplied execution, or one of its nodes."""

    execution: str
    flow: str
    seconds: int
    recorded: str = ""
    block: int = 0

    @property
    def node(self) -> str:
        """The multiplied node's id."""
        return self.node_id(self.recorded, self.block)

    def node_id(self, recorded: str, block: int) -> str:
        """The id of a recorded node in a block."""
        return f"n{block * BLOCK + int(recorded[1:])}"

    def writer(self, recorded: str) -> str:
        """The id of the node whose data this node reads where the recorded one read that of ``recorded``."""
        if (self.recorded, recorded) == ("n2", "n1") and self.block:
            return self.node_id("n1", 0) if self.block % 2 == 0 else self.node_id("n1", self.block - 1)
        return self.node_id(recorded, self.block)

    def rename(self, text: str) -> str:
        """A recorded string with every name replaced."""
        if text == self.recorded:
            return self.node
        if _EXECUTION in text:
            text = _DATA_URI.sub(self._data_uri, text)
            text = _NODE.sub(lambda m: f"{self.execution}{m[1]}{self.node_id(m[2], self.block)}", text)
            text = text.replace(_EXECUTION, self.execution)
        return text.replace(_FLOW, self.flow)

    def _data_uri(self, match: re.Match[str]) -> str:
        node = self.writer(match[2])
        digest = hashlib.blake2b(f"{self.execution}/{node}/{match[4]}".encode(), digest_size=16).hexdigest()
        return f"{match[1].replace(_EXECUTION, self.execution)}{node}{match[3]}{digest}"


class _Recorded:
    """One recorded message, ready to be multiplied."""

    def __init__(self, body: str, payload: bytes) -> None:
        message = json.loads(body)
        head, _, tail = body.partition(message["Message"])
        self._head, self._tail = (part.split(message["MessageId"]) for part in (head, tail))
        self.payload = payload

    def body(self, payload: bytes, number: int) -> str:
        """The envelope around another payload, with a message id of its own."""
        message_id = f"{number:08x}-fb70-47da-981f-31de919afaba"
        text = base64.b64encode(payload).decode()
        return f"{message_id.join(self._head)}{text}{message_id.join(self._tail)}"

    def make(self, name: _Name, number: int) -> str:
        """The body of the message as another execution would have sent it."""
        raise NotImplementedError


class _External(_Recorded):
    """A protobuf request."""

    def __init__(self, body: str, payload: bytes) -> None:
        super().__init__(body, payload)
        kind = json.loads(body)["Subject"].rsplit(".", 1)[1]
        self._message = getattr(event_pb2, kind).FromString(payload)
        self._strings: list[tuple[tuple[Any, ...], str]] = []
        self._times: list[tuple[Any, ...]] = []
        self._find(self._message, ())
        self.node = _node_of(self._message.event)

    def _find(self, message: Any, path: tuple[Any, ...]) -> None:
        """Where names and times are."""
        for descriptor, value in message.ListFields():
            repeated = descriptor.is_repeated
            for index, item in enumerate(value) if repeated else [(None, value)]:
                step = (*path, descriptor.name) if index is None else (*path, descriptor.name, index)
                if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
                    if item.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
                        self._times.append(step)
                    else:
                        self._find(item, step)
                elif descriptor.type == FieldDescriptor.TYPE_STRING and index is None:
                    self._strings.append((step, item))

    def make(self, name: _Name, number: int) -> str:
        message = type(self._message).FromString(self.payload)
        for path, text in self._strings:
            renamed = name.rename(text)
            if renamed != text:
                setattr(_at(message, path[:-1]), path[-1], renamed)
        for path in self._times:
            _at(message, path).seconds += name.seconds
        return self.body(message.SerializeToString(), number)


class _CloudEvent(_Recorded):
    """CloudEvents v2: JSON in a protobuf CloudEvent. Other strings than names stand between quotes, too."""

    def __init__(self, body: str, payload: bytes) -> None:
        super().__init__(body, payload)
        event = CloudEvent.FromString(payload)
        self._text = (event.binary_data or event.text_data.encode()).decode()
        self._is_binary = bool(event.binary_data)
        self.node = _json_node_of(json.loads(self._text)["rawEvent"])
        self._parts = re.split(r'("(?:[^"\\]|\\.)*")', self._text)

    def make(self, name: _Name, number: int) -> str:
        parts = [
            f'"{_TIME.sub(lambda m: _shift(m[0], name.seconds), name.rename(part[1:-1]))}"' if part[:1] == '"' else part
            for part in self._parts
        ]
        event = CloudEvent.FromString(self.payload)
        event.id = event.id.replace(_EXECUTION, name.execution)
        if self._is_binary:
            event.binary_data = "".join(parts).encode()
        else:
            event.text_data = "".join(parts)
        return self.body(event.SerializeToString(), number)


def _shift(text: str, seconds: int) -> str:
    whole, dot, fraction = text[:-1].partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}{dot}{fraction}Z"


def _at(message: Any, path: Sequence[Any]) -> Any:
    for step in path:
        message = message[step] if isinstance(step, int) else getattr(message, step)
    return message


def _node_of(event: Any) -> str:
    """The node that an event tells of; empty: it is the workflow's."""
    names = {descriptor.name for descriptor, _ in event.ListFields()}
    if "parent_node_execution_id" in names:
        return str(event.parent_node_execution_id.node_id)
    return str(event.id.node_id) if "id" in names else ""


def _json_node_of(event: dict[str, Any]) -> str:
    return str((event.get("parentNodeExecutionId") or event.get("id") or {}).get("nodeId", ""))


class Multiplier:
    """The recorded execution, taken apart.

    Args:
        wire: how the events travel.
    """

    def __init__(self, wire: Wire) -> None:
        cls = _External if wire == "external" else _CloudEvent
        lines = (CORPUS / _CASE / f"messages.{wire}.jsonl").read_text().splitlines()
        recorded = []
        for line in lines:
            body = json.loads(line)
            recorded.append(cls(body, base64.b64decode(json.loads(body)["Message"])))
        self._nodes = {f"n{k}": [r for r in recorded if r.node == f"n{k}"] for k in range(BLOCK)}
        frame = [r for r in recorded if not re.fullmatch(r"n\d+", r.node)]
        self._before = [r for r in frame if recorded.index(r) < recorded.index(self._nodes["n0"][0])]
        self._after = [r for r in frame if r not in self._before]
        self._literals = list(_recorded_literals())
        self._schemas = dict(_recorded_schemas(data for _, _, data in self._literals))

    def events_of(self, tasks: int) -> int:
        """How many messages an execution of so many tasks sends."""
        whole, rest = divmod(tasks, BLOCK)
        counts = [len(self._nodes[f"n{k}"]) for k in range(BLOCK)]
        return len(self._before) + whole * sum(counts) + sum(counts[:rest]) + len(self._after)

    def _edges_of(self, tasks: int) -> int:
        counts = [0] * BLOCK
        for node, _, data in self._literals:
            counts[int(node[1:])] += len(data_refs(LiteralMap.FromString(data)))
        whole, rest = divmod(tasks, BLOCK)
        return whole * sum(counts) + sum(counts[:rest])

    def make(self, tasks: int, executions: int) -> Workload:
        """Multiply.

        Args:
            tasks: in each execution, 1 or more.
            executions: how many; those of one pipeline (:data:`RUNS` of them) do not follow each other.

        Returns:
            The events of up to 16 executions at a time interleaved, each execution's own in their order.
        """
        pipelines = -(-executions // RUNS)
        load = Workload(executions=executions, tasks=tasks, pipelines=pipelines, edges=self._edges_of(tasks))
        for start in range(0, executions, _TOGETHER):
            streams = []
            for number in range(start, min(start + _TOGETHER, executions)):
                name = (f"a{number:019x}", f"flows.flow{number % pipelines}", number)
                self._make_objects(load, name, tasks)
                streams.append(self._stream(name, tasks))
            _interleave(streams, load.bodies)
        return load

    def make_open(self, executions: int) -> Iterator[str]:
        """The first five messages of each of many executions, of which none ends."""
        number = 0
        for execution in range(executions):
            name = _Name(f"a{execution:019x}", f"flows.flow{execution % 1000}", execution)
            node = _Name(name.execution, name.flow, name.seconds, "n0", 0)
            for recorded, of in [*((r, name) for r in self._before), *((r, node) for r in self._nodes["n0"][:3])]:
                yield recorded.make(of, number)
                number += 1

    def _stream(self, name: tuple[str, str, int], tasks: int) -> Iterator[Callable[[int], str]]:
        execution, flow, seconds = name
        frame = _Name(execution, flow, seconds)
        for recorded in self._before:
            yield lambda n, r=recorded: r.make(frame, n)  # type: ignore[misc]
        for position in range(tasks):
            block, k = divmod(position, BLOCK)
            node = _Name(execution, flow, seconds + block * _BLOCK_SECONDS, f"n{k}", block)
            for recorded in self._nodes[f"n{k}"]:
                yield lambda n, r=recorded, o=node: r.make(o, n)  # type: ignore[misc]
        last = _Name(execution, flow, seconds + tasks // BLOCK * _BLOCK_SECONDS)
        for recorded in self._after:
            yield lambda n, r=recorded: r.make(last, n)  # type: ignore[misc]

    def _make_objects(self, load: Workload, name: tuple[str, str, int], tasks: int) -> None:
        by_node: dict[str, list[tuple[str, bytes]]] = {}
        for node, uri, data in self._literals:
            by_node.setdefault(node, []).append((uri, data))
        for position in range(tasks):
            block, k = divmod(position, BLOCK)
            node_name = _Name(*name, f"n{k}", block)
            for uri, data in by_node.get(f"n{k}", ()):
                literals = LiteralMap.FromString(data)
                for literal in literals.literals.values():
                    scalar = literal.scalar
                    for value in (scalar.structured_dataset, scalar.blob):
                        if value.uri:
                            facts = self._schemas.get(value.uri)
                            value.uri = node_name.rename(value.uri)
                            if facts is not None:
                                load.schemas[value.uri, facts[0]] = facts[1]
                load.literals[node_name.rename(uri)] = literals.SerializeToString()


def _interleave(streams: Sequence[Iterator[Callable[[int], str]]], bodies: list[str]) -> None:
    pending = list(streams)
    while pending:
        left = []
        for stream in pending:
            make = next(stream, None)
            if make is not None:
                bodies.append(make(len(bodies)))
                left.append(stream)
        pending = left


def _recorded_literals() -> Iterator[tuple[str, str, bytes]]:
    """Node, URI and bytes of the recorded literal maps."""
    root = CORPUS / "objects"
    for file in sorted(root.rglob(f"*-{_EXECUTION}/n*/data/**/*puts.pb")):
        path = file.relative_to(root).as_posix()
        match = _NODE.search(path)
        if match is not None and int(match[2][1:]) < BLOCK:
            yield match[2], f"s3://{path}", file.read_bytes()


def _recorded_schemas(literals: Iterator[bytes] | Any) -> Iterator[tuple[str, tuple[str, FoundSchema]]]:
    """By URI, format and facts of the recorded data files."""
    storage = Storage(objects=str(CORPUS / "objects"))
    reader = SchemaReader(storage=storage)
    for data in literals:
        for ref in data_refs(LiteralMap.FromString(data)):
            facts = reader.read(ref.uri, ref.format) if ref.format == "parquet" else None
            if facts is not None:
                yield ref.uri, (ref.format, FoundSchema(facts.fields, "file", facts.rows, facts.bytes))
