"""The engine without threads: recorded or made-up messages in, the catalog and targets out, step by step.

Steps are what a daemon's threads do (:class:`Engine`): receive, derive, deliver; a test decides their order. Objects
come from the corpus' folder, each read once per process (:class:`RecordedObjects`). :func:`make_daemon` builds the real
daemon on a source that a test scripts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from flytelineage.catalog.export import export_document
from flytelineage.engine.daemon import Daemon
from flytelineage.engine.deliveries import Deliverer, Scheduler
from flytelineage.engine.deriver import Deriver
from flytelineage.engine.receiver import decode_batch
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import ObjectNotFoundError, ObjectUnreadableError, StorageUnavailableError
from flytelineage.inbox.database import Database
from flytelineage.inbox.sql import Inbox
from flytelineage.lineage.build import FoundSchema
from flytelineage.lineage.reading import Reading
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.sources.base import Message, Source
from flytelineage.storage import Storage
from flytelineage.targets.base import Change, Target
from flytelineage.testing import ManualClock, RecordingTarget
from tests.support.corpus import CORPUS, OBJECTS, Publisher

Document = dict[str, Any]
State = dict[tuple[str, str], Any]


@cache
def bodies(case: str, publisher: Publisher = "cloudevents") -> tuple[str, ...]:
    """A case's SQS bodies, in the order in which they arrived."""
    lines = (CORPUS / case / f"messages.{publisher}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def bodies_of(cases: Iterable[str], *publishers: Publisher) -> list[str]:
    """The SQS bodies of several cases, of CloudEvents v2 unless others are named."""
    return [body for case in cases for publisher in publishers or ("cloudevents",) for body in bodies(case, publisher)]


class RecordedObjects:
    """An ``ObjectReader`` on the corpus; on request everything has expired, or nothing answers.

    Attributes:
        gone: every object has expired.
        down: the store does not answer.
        added: further literal maps by URI.
        reads: URIs of literal maps asked for, in order.
    """

    def __init__(self, *, gone: bool = False, down: bool = False) -> None:
        self.gone = gone
        self.down = down
        self.added: dict[str, bytes] = {}
        self.reads: list[str] = []

    def literals(self, uris: Sequence[str]) -> Mapping[str, bytes | Exception]:
        """Literal maps by URI."""
        self.reads.extend(uris)
        return {uri: self._failure(uri) or self.added.get(uri) or _literals(uri) for uri in uris}

    def schemas(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], FoundSchema | Exception | None]:
        """Schemas by (URI, format)."""
        return {item: self._failure(item[0]) or _schema(*item) for item in wanted}

    def _failure(self, uri: str) -> Exception | None:
        if self.down:
            return StorageUnavailableError(f"{uri} does not answer")
        return ObjectNotFoundError(f"{uri} has expired") if self.gone else None


@cache
def _storage() -> Storage:
    return Storage(objects=str(OBJECTS))


@cache
def _literals(uri: str) -> bytes | Exception:
    try:
        return _storage().read(uri)
    except ObjectUnreadableError as error:
        return error


@cache
def _schema(uri: str, form: str) -> FoundSchema | Exception | None:
    try:
        facts = SchemaReader(storage=_storage()).read(uri, form)
    except ObjectUnreadableError as error:
        return error
    return None if facts is None else FoundSchema(facts.fields, "file", facts.rows, facts.bytes)


@cache
def _empty_database(folder: Path) -> Path:
    file = folder / "empty.db"
    database = Database(f"sqlite:///{file}")
    database.open()
    database.close()
    return file


def new_database(folder: Path, name: str = "lineage.db") -> Path:
    """A database with the newest schema and nothing in it; cheap after the first in a folder."""
    file = folder / name
    for leftover in folder.glob(f"{name}*"):
        leftover.unlink()
    shutil.copyfile(_empty_database(folder), file)
    return file


class Engine:
    """An open inbox with a deriver and deliverers, driven by hand.

    Args:
        file: database; made when it is not there.
        targets: to deliver to.
        clock: the same one again for a restart.
        objects: what literals and schemas are read from.
        options: of :class:`WorkflowEvents`; settle times are 0 unless told otherwise.
    """

    def __init__(
        self,
        file: Path,
        *targets: Target,
        clock: ManualClock | None = None,
        objects: Any = None,
        instance: str = "",
        **options: Any,
    ) -> None:
        self.file = file
        self.clock = clock or ManualClock()
        self.objects = objects if objects is not None else RecordedObjects()
        self.events = WorkflowEvents(**{"settle_seconds": 0.0, "long_settle_seconds": 0.0, **options})
        self.inbox = Inbox(url=f"sqlite:///{file}")
        self.scheduler = Scheduler([target.name for target in targets], self.clock)
        try:
            self.inbox.open(instance=instance, settle=self.events.settle, clock=self.clock)
            self.inbox.writer.run(self.scheduler.seed)
        except BaseException:
            self.inbox.close()
            raise
        self.deriver = Deriver(self.inbox, Reading(self.objects), self.scheduler, self.events, self.clock)
        self.deliverers = [Deliverer(target, self.inbox, self.clock, lambda _, most: most) for target in targets]

    def receive(self, messages: Iterable[str]) -> None:
        """Commit messages, as one batch."""
        self.inbox.append(decode_batch([Message(body, f"m-{n}") for n, body in enumerate(messages)])).result(30)

    def derive(self, *, ended: bool = False, draining: bool = False) -> int:
        """Derive what is due; returns how many executions were taken."""
        taken = 0
        while count := self.deriver.step(ended=ended, draining=draining):
            taken += count
            assert taken < 10_000, "the deriver never comes to an end"
        return taken

    def deliver(self) -> int:
        """Deliver what is due now; returns how many lanes were taken."""
        taken = 0
        for deliverer in self.deliverers:
            while count := deliverer.step():
                taken += count
                assert taken < 100_000, "the deliverer never comes to an end"
        return taken

    def deliver_all(self) -> None:
        """Deliver everything, letting the time pass that back-offs take."""
        for _ in range(50):
            self.deliver()
            if all(deliverer.next_due() is None for deliverer in self.deliverers):
                return
            self.clock.advance(700.0)
        msg = "deliveries never come to an end"
        raise AssertionError(msg)

    def export(self, *executions: str, pipelines: Sequence[str] = ()) -> Document:
        """The export."""
        return export_document(self.inbox, executions, pipelines)

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What a query says."""
        return list(self.inbox.database.connect().exec_driver_sql(sql, parameters).all())

    def close(self) -> None:
        """Close the inbox."""
        self.inbox.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ingest(engine: Engine, messages: Iterable[str]) -> None:
    """Everything at once: received, derived as at the end of a replay, delivered."""
    engine.receive(messages)
    engine.derive(ended=True)
    engine.deliver_all()


def seen_by_a_new_target(engine: Engine) -> State:
    """What a target shows that is added now and told everything: what every other one must show, too."""
    target = RecordingTarget(name="newcomer")
    engine.inbox.writer.run(Scheduler([target.name], engine.clock).seed)
    deliverer = Deliverer(target, engine.inbox, engine.clock)
    while deliverer.step():
        pass

    def forget(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM delivery WHERE target = 'newcomer'")
        connection.exec_driver_sql("DELETE FROM target WHERE name = 'newcomer'")

    engine.inbox.writer.run(forget)
    return dict(target.state)


class PatientTarget(RecordingTarget):
    """A recording target that applies what it is sent and then, on request, says that it did not answer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loses_answers = False
        self.batches: list[list[Change]] = []

    def send_all(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        """Send, and remember what came together."""
        self.batches.append(list(changes))
        return super().send_all(changes)

    def send(self, change: Change) -> None:
        """Apply, then perhaps fail."""
        super().send(change)
        if self.loses_answers:
            msg = "the answer was lost"
            raise TimeoutError(msg)


def make_daemon(
    source: Source,
    file: Path,
    *targets: Target,
    objects: Any = None,
    clock: Any = None,
    shutdown_timeout: float = 5.0,
    **options: Any,
) -> tuple[Daemon, Inbox]:
    """The real daemon on a scripted or recorded source, with settle times of 0 unless told otherwise."""
    inbox = Inbox(url=f"sqlite:///{file}")
    storage = Storage(objects=str(OBJECTS))
    daemon = Daemon(
        source=source,
        inbox=inbox,
        storage=storage,
        schemas=SchemaReader(storage=storage),
        events=WorkflowEvents(targets=list(targets), **{"settle_seconds": 0.0, "long_settle_seconds": 0.0, **options}),
        objects=objects if objects is not None else RecordedObjects(),
        shutdown_timeout=shutdown_timeout,
        clock=clock,
    )
    return daemon, inbox


def export_of(file: Path) -> Document:
    """The export of a database, read beside whoever writes to it."""
    inbox = Inbox(url=f"sqlite:///{file}")
    inbox.open(readonly=True)
    try:
        return export_document(inbox)
    finally:
        inbox.close()


def altered(body: str, change: Callable[[dict[str, Any]], None]) -> str:
    """A CloudEvent's data, changed, as a CloudEvent in structured mode."""
    from flytelineage.events.decode import decode

    event = decode(body)
    data = json.loads(event.body)
    change(data)
    kind = {4: "Workflow", 5: "Node", 6: "Task"}[int(event.encoding)]
    return json.dumps(
        {"specversion": "1.0", "type": f"com.flyte.resource.cloudevents.{kind}Execution", "data": json.dumps(data)}
    )
