"""Doubles and contract tests for whoever writes a source or a target. Public, and kept as such.

:class:`ScriptedSource` delivers messages that a test gives it and remembers what was acknowledged;
:class:`RecordingTarget` keeps what it was sent and fails on demand; :class:`ManualClock` moves when told.
:class:`TargetContract` is the suite that every target passes: subclass it in a test module, and pytest collects it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from flytelineage.errors import TargetUnavailableError
from flytelineage.model import (
    Dataset,
    Entity,
    ExecutionId,
    Field,
    Kind,
    NamingRule,
    Pipeline,
    Run,
    Task,
    TaskRun,
    TaskRunInput,
    TaskRunOutput,
)
from flytelineage.sources.base import Message, Source
from flytelineage.targets.base import Change, Target


class ManualClock:
    """A clock that a test moves; waiting moves it too, so that nothing ever really waits."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the epoch, as told."""
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        """The same seconds."""
        return self.now()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Let the time pass at once, unless the event is set."""
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Move on."""
        with self._lock:
            self._now += seconds


class ScriptedSource(Source):
    """Delivers given messages, then is exhausted (or, with ``endless``, waits for more)."""

    def __init__(self, bodies: Iterable[str] = (), *, endless: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lock = threading.Lock()
        self._waiting = deque(Message(body, f"message-{n}", f"receipt-{n}") for n, body in enumerate(bodies))
        self._endless = endless
        self._more = threading.Event()
        self.acknowledged: list[Message] = []
        self.released: list[Message] = []
        self.opened = False

    def open(self) -> None:
        """Remember that it was called."""
        self.opened = True

    def add(self, *bodies: str) -> None:
        """Deliver more."""
        with self._lock:
            start = len(self._waiting) + len(self.acknowledged)
            self._waiting.extend(Message(body, f"message-{start + n}") for n, body in enumerate(bodies))
        self._more.set()

    def receive(self, stop: threading.Event) -> Sequence[Message]:
        """Up to ``batch_size`` of what waits."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
            if not self._waiting:
                self._more.clear()
        if not batch and self._endless:
            self._more.wait(0.02)
        return batch

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Remember what was acknowledged."""
        with self._lock:
            self.acknowledged.extend(messages)

    def release(self, messages: Sequence[Message]) -> None:
        """Deliver again, later."""
        with self._lock:
            self.released.extend(messages)
            self._waiting.extend(messages)
        self._more.set()

    @property
    def exhausted(self) -> bool:
        """Whether everything was delivered and nothing more will come."""
        with self._lock:
            return not self._endless and not self._waiting


class RecordingTarget(Target):
    """Keeps what it was sent; fails while :attr:`down`, and for keys in :attr:`refused` with the given error."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = self.name or "recording"
        self.changes: list[Change] = []
        self.down = False
        self.refused: dict[str, Exception] = {}
        self.closed = False

    def send(self, change: Change) -> None:
        """Keep the change, or fail."""
        if self.down:
            msg = "the recording target is down"
            raise TargetUnavailableError(msg)
        if change.key in self.refused:
            raise self.refused[change.key]
        self.changes.append(change)

    def close(self, timeout: float) -> bool:
        """Remember that it was called."""
        self.closed = True
        return True

    @property
    def state(self) -> dict[tuple[str, str], Entity]:
        """What the target shows in the end: by kind and key, the entity of the greatest revision."""
        newest: dict[tuple[str, str], Change] = {}
        for change in self.changes:
            key = (change.kind.value, change.key)
            if key not in newest or change.revision >= newest[key].revision:
                newest[key] = change
        return {key: change.entity for key, change in newest.items() if change.entity is not None}


def example_changes(revision: int = 1, rows: int = 3) -> list[Change]:
    """One change of every kind, consistent with each other, in the order in which they are delivered."""
    pipeline = Pipeline(
        name="development.shop.flows.orders_wf",
        project="shop",
        domain="development",
        workflow="flows.orders_wf",
        naming_rule=NamingRule.LAUNCH_PLAN,
        tags=("team:growth",),
        tasks=("flows.load",),
    )
    made = Dataset(
        name=f"{pipeline.name}.load.o0",
        platform="flyte",
        pipeline=pipeline.name,
        task="flows.load",
        variable="o0",
        format="parquet",
        uris=("s3://raw/ab/e1-n0-0/0123456789abcdef0123456789abcdef",),
        fields=(Field("id", "int64", nullable=False), Field("tags", "list<element: string>", nullable=True)),
        schema_source="file",
        rows=rows,
        bytes=1_000,
        upstreams=("landing/orders.csv",),
    )
    landing = Dataset(name="landing/orders.csv", platform="s3", format="csv", uris=("s3://landing/orders.csv",))
    task = Task(
        pipeline=pipeline.name,
        name="flows.load",
        flyte_task="flows.load",
        version="v1",
        type="python-task",
        inputs=(landing.name,),
        outputs=(made.name,),
    )
    execution = ExecutionId("", "", "shop", "development", "e1")
    run = Run(
        execution=execution,
        pipeline=pipeline.name,
        phase="SUCCEEDED",
        started_at=None,
        ended_at=None,
        tasks=(
            TaskRun(
                task=task.name,
                node_id="n0",
                attempt=0,
                index=None,
                phase="SUCCEEDED",
                started_at=None,
                ended_at=None,
                cached=False,
                source_execution=None,
                inputs=(TaskRunInput("src", landing.name, landing.uris[0]),),
                outputs=(TaskRunOutput("o0", made.name, made.uris[0], handed_on=False),),
            ),
        ),
    )
    return [
        Change(Kind.PIPELINE, pipeline.name, revision, pipeline),
        Change(Kind.DATASET, f"{pipeline.name}/{task.name}/o0", revision, made),
        Change(Kind.DATASET, "s3://landing/orders.csv", revision, landing),
        Change(Kind.TASK, f"{pipeline.name}/{task.name}", revision, task),
        Change(Kind.RUN, execution.key, revision, run),
    ]


class TargetContract(ABC):
    """What every target promises. Subclass it, implement the two methods, and let pytest collect the tests.

    A test gets a fresh server or folder by whatever means your subclass has (``setup_method``, a fixture).
    """

    @abstractmethod
    def make_target(self) -> Target:
        """A new target, unopened, on the present test's server; called again for a restarted process."""

    @abstractmethod
    def read_state(self) -> Any:
        """What the other catalog shows now, in any form that compares equal for equal states."""

    def test_sending_again_changes_nothing(self) -> None:
        """Invariant 3: deliveries repeat after a crash."""
        target = self._open()
        target.send_all(example_changes())
        state = self.read_state()
        for change in example_changes():
            target.send(change)
        assert self.read_state() == state
        target.close(5.0)

    def test_a_newer_revision_replaces_the_older(self) -> None:
        """What is shown is the newest state."""
        target = self._open()
        target.send_all(example_changes(revision=2, rows=99))
        newest = self.read_state()
        target.close(5.0)
        self.reset()
        target = self._open()
        target.send_all(example_changes(revision=1, rows=3))
        target.send_all(example_changes(revision=2, rows=99))
        assert self.read_state() == newest
        target.close(5.0)

    def test_every_change_has_an_outcome(self) -> None:
        """One outcome per change, None for sent."""
        target = self._open()
        assert list(target.send_all(example_changes())) == [None] * len(example_changes())
        assert target.close(5.0)

    def test_a_restarted_process_goes_on(self) -> None:
        """A second process on the same catalog ends in the state of one that saw everything."""
        first = self._open()
        first.send_all(example_changes(revision=1, rows=3)[:2])
        assert first.close(5.0)
        second = self._open()
        second.send_all(example_changes(revision=2, rows=99))
        state = self.read_state()
        second.close(5.0)
        self.reset()
        only = self._open()
        only.send_all(example_changes(revision=2, rows=99))
        assert self.read_state() == state
        only.close(5.0)

    def test_a_removed_entity_is_gone(self) -> None:
        """An entity that is no more is not shown, however often that is said, or was never shown before."""
        target = self._open()
        changes = example_changes()
        target.send_all(changes)
        shown = self.read_state()
        removed = [Change(change.kind, change.key, 2, None) for change in reversed(changes)]
        assert list(target.send_all(removed)) == [None] * len(removed)
        gone = self.read_state()
        assert gone != shown
        target.send_all([Change(change.kind, change.key, 3, None) for change in reversed(changes)])
        assert self.read_state() == gone
        target.close(5.0)

    def test_close_is_idempotent(self) -> None:
        """Closing twice is closing once."""
        target = self._open()
        assert target.close(5.0)
        assert target.close(5.0)

    @abstractmethod
    def reset(self) -> None:
        """Empty the other catalog."""

    def _open(self) -> Target:
        target = self.make_target()
        target.open()
        return target
