"""The recorded corpus as tests need it: a case's messages, executions and objects, and copies of it by other names.

Knows Flyte's own messages and the layout of ``tests/corpus`` (its README.md), and nothing of flytelineage.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from flyteidl.admin import event_pb2
from flyteidl.core.execution_pb2 import WorkflowExecution

CORPUS = Path(__file__).parents[1] / "corpus"
OBJECTS = CORPUS / "objects"

Publisher = Literal["external", "cloudevents"]
"""Which of FlyteAdmin's two publishers a message is from."""


class Published(NamedTuple):
    """What FlyteAdmin gave to SNS."""

    subject: str
    message: str


class StoredObject(NamedTuple):
    """An object of S3."""

    bucket: str
    key: str
    body: bytes


class Execution(NamedTuple):
    """An execution of a case and how it ended."""

    name: str
    """``project/domain/name``."""
    phase: str
    """Name of the last phase that its workflow events tell."""


@dataclass(frozen=True)
class Recording:
    """A case of the corpus, or a copy of it.

    Attributes:
        case: folder below ``tests/corpus``, such as ``covid`` or ``inline/covid``.
        renamed: what is written instead of what, everywhere in messages and objects. Both have the same length, so
            that lengths inside protobuf stay right; that is also why bytes are replaced and nothing is parsed.
    """

    case: str
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for old, new in self.renamed.items():
            if len(old) != len(new):
                msg = f"{old!r} and {new!r} differ in length"
                raise ValueError(msg)

    def published(self, publisher: Publisher) -> list[Published]:
        """The messages of one publisher, in the order in which they arrived."""
        return [
            Published(subject, self._rename_message(message)) for subject, message in _messages(self.case, publisher)
        ]

    def executions(self) -> list[Execution]:
        """The executions of the case, by name."""
        ends: dict[str, int] = {}
        for published in self.published("external"):
            if published.subject.endswith(".WorkflowExecutionEventRequest"):
                event = event_pb2.WorkflowExecutionEventRequest.FromString(base64.b64decode(published.message)).event
                name = f"{event.execution_id.project}/{event.execution_id.domain}/{event.execution_id.name}"
                ends[name] = max(ends.get(name, 0), event.phase)
        return [Execution(name, WorkflowExecution.Phase.Name(phase)) for name, phase in sorted(ends.items())]

    def succeeded(self) -> list[str]:
        """Names of the executions that succeeded, sorted."""
        return [execution.name for execution in self.executions() if execution.phase == "SUCCEEDED"]

    def objects(self) -> Iterator[StoredObject]:
        """What the case's executions left in S3, and everything at fixed places."""
        original = Recording(self.case)
        names = {execution.name.rsplit("/", 1)[1] for execution in original.executions()}
        for bucket, key in _keys():
            if bucket != "my-s3-bucket" or any(_belongs(segment, names) for segment in key.split("/")):
                body = (OBJECTS / bucket / key).read_bytes()
                yield StoredObject(bucket, self._rename(key.encode()).decode(), self._rename(body))

    def _rename(self, data: bytes) -> bytes:
        for old, new in self.renamed.items():
            data = data.replace(old.encode(), new.encode())
        return data

    def _rename_message(self, message: str) -> str:
        if not self.renamed:
            return message
        return base64.b64encode(self._rename(base64.b64decode(message))).decode()


def recorded(cases: Iterable[str]) -> list[Recording]:
    """The recordings of cases, unchanged."""
    return [Recording(case) for case in cases]


def cases() -> list[str]:
    """Every case of the corpus, those of the subfolders too, sorted."""
    return sorted(str(path.parent.relative_to(CORPUS)) for path in CORPUS.rglob("case.json"))


@cache
def _messages(case: str, publisher: Publisher) -> list[tuple[str, str]]:
    lines = (CORPUS / case / f"messages.{publisher}.jsonl").read_text(encoding="utf-8").splitlines()
    envelopes = [json.loads(json.loads(line)) for line in lines]
    return [(envelope["Subject"], envelope["Message"]) for envelope in envelopes]


@cache
def _keys() -> list[tuple[str, str]]:
    """Buckets and keys of the objects that lineage needs: all but FlyteAdmin's own copies of inputs and closures."""
    found = []
    for path in sorted(OBJECTS.rglob("*")):
        if path.is_file():
            bucket, _, key = path.relative_to(OBJECTS).as_posix().partition("/")
            if not key.startswith(("metadata/flytesnacks/", "metadata/admin/")):
                found.append((bucket, key))
    return found


def _belongs(segment: str, names: set[str]) -> bool:
    """Whether a path segment is a place of one of the executions: its metadata folder or its raw data."""
    bare = re.sub(r"^flytesnacks-(development|production)-", "", segment)
    return any(bare == name or bare.startswith(f"{name}-") for name in names)
