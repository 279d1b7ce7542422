"""The daemon's loop: what is acknowledged when, how it stops, and what no message may do to it."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin.event_pb2 import WorkflowExecutionEventRequest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from flytelineage.catalog.merge import Merge, Touched
from flytelineage.engine import deriver as deriver_module
from flytelineage.engine.daemon import Daemon, Progress
from flytelineage.errors import ConfigurationError, ExitCode
from flytelineage.events import decode
from flytelineage.inbox.sql import Batch, Inbox
from flytelineage.sources.base import Message
from flytelineage.sources.recorded import RecordedSource
from flytelineage.testing import ManualClock, RecordingTarget, ScriptedSource
from tests.support.catalog import (
    Engine,
    RecordedObjects,
    altered,
    bodies,
    bodies_of,
    export_of,
    make_daemon,
    new_database,
    seen_by_a_new_target,
)
from tests.support.corpus import CORPUS
from tests.support.waiting import wait_until

SECONDS = 15.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return new_database(tmp_path)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.daemon and not t.name.startswith("reader")]
    for thread in left:
        thread.join(1.0)
    assert [thread.name for thread in left if thread.is_alive()] == []


class Running:
    """A daemon in a thread."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.progress: list[Progress] = []
        self.outcome: list[Any] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome.append(self.daemon.run(self.progress.append))
        except BaseException as error:  # noqa: BLE001  (handed to the test)
            self.outcome.append(error)

    def stop(self) -> Any:
        self.daemon.stop()
        return self.wait()

    def wait(self) -> Any:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the daemon does not stop"
        return self.outcome[0]


def rows(file: Path, sql: str) -> list[Any]:
    inbox = Inbox(url=f"sqlite:///{file}")
    inbox.open(readonly=True)
    try:
        return list(inbox.database.connect().exec_driver_sql(sql).all())
    finally:
        inbox.close()


# -- the way through -------------------------------------------------------------------------------------------------


def test_a_finite_source_is_drained_derived_and_delivered(file: Path) -> None:
    target = RecordingTarget()
    messages = bodies_of(["covid", "caching"])
    source = ScriptedSource([*messages, "nonsense", messages[0]])
    daemon, _ = make_daemon(source, file, target)
    assert daemon.run() == ExitCode.OK
    summary = daemon.summary()
    assert (summary.messages, summary.events) == (len(messages) + 2, len(messages))
    assert (summary.duplicates, summary.dead_letters) == (1, 1)
    assert (summary.executions, summary.derived, summary.runs) == (4, 4, 4)
    assert summary.pipelines == 2
    assert summary.deliveries_sent == len(target.changes)
    assert summary.deliveries_pending == 0
    assert len(source.acknowledged) == len(messages) + 2
    assert set(summary.as_dict()) == set(summary.__dataclass_fields__)
    assert len(export_of(file)["runs"]) == 4
    assert target.closed


def test_replaying_twice_changes_nothing_and_counts_duplicates(file: Path) -> None:
    exports, summaries = [], []
    for _ in range(2):
        target = RecordingTarget()
        daemon, _ = make_daemon(RecordedSource(paths=[str(CORPUS / "covid"), str(CORPUS / "diamond")]), file, target)
        assert daemon.run() == ExitCode.OK
        exports.append(export_of(file))
        summaries.append(daemon.summary())
    assert exports[0] == exports[1]
    assert summaries[0].duplicates == 0
    assert summaries[1].duplicates == summaries[1].messages == summaries[0].messages
    assert summaries[1].events == summaries[1].derived == summaries[1].deliveries_sent == 0


def test_several_receivers_give_the_same(file: Path) -> None:
    messages = bodies_of(["covid", "covid-again", "versions", "together"])
    source = ScriptedSource(messages, receivers=4)
    daemon, _ = make_daemon(source, file)
    assert daemon.run() == ExitCode.OK
    assert len(source.acknowledged) == len(messages)
    with Engine(new_database(file.parent, "other.db")) as engine:
        engine.receive(messages)
        engine.derive(ended=True)
        assert export_of(file) == engine.export()


def test_progress_is_told(file: Path) -> None:
    daemon, _ = make_daemon(ScriptedSource(bodies("covid")), file)
    told: list[Progress] = []
    assert daemon.run(told.append) == ExitCode.OK
    assert told[-1].messages == len(bodies("covid"))
    assert (told[-1].derived, told[-1].pending) == (1, 0)


# -- stopping --------------------------------------------------------------------------------------------------------


def test_stop_drains_what_was_received_and_closes(file: Path) -> None:
    source = ScriptedSource(bodies("covid"), endless=True)
    target = RecordingTarget()
    daemon, inbox = make_daemon(source, file, target)
    running = Running(daemon)
    wait_until(lambda: bool(running.progress) and running.progress[-1].derived == 1, SECONDS, "covid is derived", 0.02)
    assert running.stop() == ExitCode.OK
    assert len(source.acknowledged) == len(bodies("covid"))
    assert target.closed
    with pytest.raises(RuntimeError, match="not open"):
        _ = inbox.database
    second = Inbox(url=f"sqlite:///{file}")
    second.open()  # the lock is free
    second.close()


def test_stop_is_idempotent_and_may_come_first(file: Path) -> None:
    source = ScriptedSource(bodies("covid"), endless=True)
    daemon, _ = make_daemon(source, file)
    daemon.stop()
    daemon.stop()
    assert daemon.run() == ExitCode.OK
    assert source.acknowledged == []


def test_what_was_not_derived_at_the_stop_is_derived_after_the_next_start(file: Path) -> None:
    source = ScriptedSource(bodies("covid"), endless=True)
    daemon, _ = make_daemon(source, file, settle_seconds=3600.0, long_settle_seconds=7200.0)
    running = Running(daemon)
    wait_until(lambda: len(source.acknowledged) == len(bodies("covid")), SECONDS, "all is committed", 0.02)
    assert running.stop() == ExitCode.OK
    assert export_of(file)["runs"] == []
    daemon, _ = make_daemon(ScriptedSource(["nonsense"]), file)
    assert daemon.run() == ExitCode.OK
    assert len(export_of(file)["runs"]) == 1


class Blocked(ScriptedSource):
    """A source that does not come back in time."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(receivers=2, endless=True)
        self.let_go = threading.Event()
        self.asked = threading.Event()
        self._fails = fails

    def receive(self, stop: threading.Event) -> Sequence[Message]:
        with self._lock:
            first, self._fails = self._fails, False
        if first:
            assert self.asked.wait(SECONDS)
            msg = "a defect of the source"
            raise OSError(msg)
        self.asked.set()
        assert self.let_go.wait(SECONDS)
        return []


def test_a_stop_that_takes_too_long_is_incomplete(file: Path) -> None:
    source = Blocked()
    daemon, inbox = make_daemon(source, file, shutdown_timeout=0.1)
    running = Running(daemon)
    assert source.asked.wait(SECONDS)
    assert running.stop() == ExitCode.INCOMPLETE
    source.let_go.set()
    inbox.close()


def test_a_dead_worker_is_told_even_when_another_does_not_stop_in_time(file: Path) -> None:
    source = Blocked(fails=True)
    daemon, inbox = make_daemon(source, file, shutdown_timeout=0.1)
    outcome = Running(daemon).wait()
    source.let_go.set()
    inbox.close()
    assert outcome == ExitCode.WORKER_DIED


# -- deaths ----------------------------------------------------------------------------------------------------------


class Dying(ScriptedSource):
    def receive(self, stop: threading.Event) -> Sequence[Message]:
        if not self._waiting:
            msg = "a defect of the source"
            raise OSError(msg)
        return super().receive(stop)


def test_a_source_that_raises_ends_the_process_and_loses_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Dying(bodies("covid"), endless=True)
    daemon, _ = make_daemon(source, file)
    assert daemon.run() == ExitCode.WORKER_DIED
    assert len(source.acknowledged) == len(bodies("covid"))
    assert rows(file, "SELECT count(*) FROM event") == [(len(bodies("covid")),)]
    (record,) = [record for record in caplog.records if getattr(record, "action", "") == "worker_died"]
    assert record.levelno == logging.CRITICAL


class Rude(RecordingTarget):
    def open(self) -> None:
        msg = "a defect of the target"
        raise OSError(msg)


def test_a_target_whose_open_raises_leaves_no_thread_behind(file: Path) -> None:
    """Else the process would never end."""
    daemon, inbox = make_daemon(ScriptedSource([]), file, Rude())
    try:
        with pytest.raises(OSError, match="a defect of the target"):
            daemon.run()
        assert "inbox-writer" not in {thread.name for thread in threading.enumerate()}
    finally:
        inbox.close()


def test_progress_that_raises_leaves_no_thread_behind(file: Path) -> None:
    source = ScriptedSource(bodies("covid"), endless=True)
    daemon, inbox = make_daemon(source, file)

    def broken(_: Progress) -> None:
        msg = "the terminal is gone"
        raise OSError(msg)

    before = set(threading.enumerate())
    try:
        with pytest.raises(OSError, match="the terminal is gone"):
            daemon.run(broken)
        assert {thread.name for thread in set(threading.enumerate()) - before} == set()
    finally:
        daemon.stop()
        wait_until(
            lambda: not {t.name for t in threading.enumerate()} & {"receiver-0", "deriver"},
            SECONDS,
            "threads end",
            0.02,
        )
        inbox.close()


def test_a_wrong_target_stops_the_start_and_closes_what_was_opened(file: Path) -> None:
    class Wrong(RecordingTarget):
        def open(self) -> None:
            msg = "no such folder"
            raise ConfigurationError(msg)

    first = RecordingTarget(name="first")
    daemon, _ = make_daemon(ScriptedSource([]), file, first, Wrong(name="second"))
    with pytest.raises(ConfigurationError, match="no such folder"):
        daemon.run()
    assert first.closed


def test_a_defective_target_stops_no_other_and_no_ingestion(file: Path) -> None:
    """Invariant 4."""

    class Careless(RecordingTarget):
        def send_all(self, changes: Any) -> Any:
            msg = "not per item"
            raise OSError(msg)

    other = RecordingTarget(name="other")
    daemon, _ = make_daemon(ScriptedSource(bodies("covid")), file, Careless(name="careless"), other)
    assert daemon.run() == ExitCode.INCOMPLETE
    assert len(other.state) == len(rows(file, "SELECT 1 FROM delivery WHERE target = 'other'")) > 0


def test_a_finite_source_with_a_target_that_is_down_ends_incomplete(file: Path) -> None:
    target = RecordingTarget()
    target.down = True
    daemon, _ = make_daemon(ScriptedSource(bodies("covid")), file, target)
    assert daemon.run() == ExitCode.INCOMPLETE
    assert daemon.summary().deliveries_pending > 0
    target.down = False
    daemon, _ = make_daemon(ScriptedSource(["nonsense"]), file, target)
    # The back-off of the first process is not over: what is left is told by the exit code.
    assert daemon.run() in (ExitCode.OK, ExitCode.INCOMPLETE)


def test_emit_false_derives_and_holds(file: Path) -> None:
    target = RecordingTarget()
    daemon, _ = make_daemon(ScriptedSource(bodies("covid")), file, target, emit=False)
    assert daemon.run() == ExitCode.OK
    assert target.changes == []
    held = daemon.summary().deliveries_pending
    assert held > 0
    daemon, _ = make_daemon(ScriptedSource(["nonsense"]), file, target)
    assert daemon.run() == ExitCode.OK
    assert len(target.changes) == held


# -- acknowledging ---------------------------------------------------------------------------------------------------


class Watchful(ScriptedSource):
    """Looks, at each acknowledgement, whether the database holds what is acknowledged."""

    def __init__(self, file: Path, messages: Sequence[str]) -> None:
        super().__init__(messages)
        self.batch_size = 7
        self._file = file
        self.missing: list[str] = []

    def acknowledge(self, messages: Sequence[Message]) -> None:
        stored = {body for (body,) in rows(self._file, "SELECT body FROM event UNION ALL SELECT body FROM dead_letter")}
        for message in messages:
            try:
                body = decode(message.body).body
            except Exception:  # noqa: BLE001  (what is no event is a dead letter)
                body = message.body.encode()
            if body not in stored:
                self.missing.append(message.message_id)
        super().acknowledge(messages)


def test_nothing_is_acknowledged_before_its_commit(file: Path) -> None:
    """Invariant 1."""
    messages = [*bodies_of(["covid", "diamond"]), "nonsense", "{}"]
    source = Watchful(file, messages)
    daemon, _ = make_daemon(source, file)
    assert daemon.run() == ExitCode.OK
    assert source.missing == []
    assert len(source.acknowledged) == len(messages)


class FailingInbox(Inbox):
    """An inbox whose writes fail for a while."""

    failures = 0

    def _append_all(self, connection: Connection, batches: list[Batch]) -> None:
        if self.failures:
            self.failures -= 1
            connection.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")
        super()._append_all(connection, batches)


def failing_daemon(source: Any, file: Path, failures: int) -> Daemon:
    daemon, _ = make_daemon(source, file, clock=ManualClock())
    inbox = FailingInbox(url=f"sqlite:///{file}")
    inbox.failures = failures
    daemon._inbox = inbox
    return daemon


def test_a_commit_that_fails_leaves_its_messages_and_recovers(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = ScriptedSource(bodies_of(["covid", "diamond"]))
    source.batch_size = 10
    assert failing_daemon(source, file, 3).run() == ExitCode.OK
    assert len(source.released) >= 3
    assert len(source.acknowledged) == len(bodies_of(["covid", "diamond"]))
    assert len(export_of(file)["runs"]) == 2
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert 1 <= actions.count("commit_failed") <= 3
    assert actions.count("commit_recovered") == actions.count("commit_failed")


def test_a_long_outage_of_the_database_is_logged_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = ScriptedSource(bodies("covid"))
    source.batch_size = 1000
    assert failing_daemon(source, file, 50).run() == ExitCode.OK
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert (actions.count("commit_failed"), actions.count("commit_recovered")) == (1, 1)


def test_a_replay_whose_commit_fails_does_not_say_that_all_is_well(file: Path) -> None:
    """Recordings do not come back by themselves as a queue's messages do."""
    source = RecordedSource(paths=[str(CORPUS / "covid" / "messages.cloudevents.jsonl")])
    code = failing_daemon(source, file, 1).run()
    stored = rows(file, "SELECT count(*) FROM event")[0][0]
    assert code != ExitCode.OK or stored == len(bodies("covid"))


class Slow(ScriptedSource):
    visibility_timeout = 0.1

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__(messages)
        self.extended: list[Message] = []
        self.seen = threading.Event()

    def extend(self, messages: Sequence[Message]) -> None:
        self.extended.extend(messages)
        self.seen.set()


def test_messages_that_wait_for_a_slow_commit_are_kept_hidden(file: Path) -> None:
    source = Slow(bodies("covid")[:5])
    source.batch_size = 5
    daemon, inbox = make_daemon(source, file)
    original, first = inbox._append_all, [True]

    def wait(connection: Connection, batches: list[Batch]) -> None:
        if first.pop():
            assert source.seen.wait(SECONDS)
        first.append(False)
        original(connection, batches)

    inbox._append_all = wait  # type: ignore[method-assign]
    assert daemon.run() == ExitCode.OK
    assert len(source.extended) >= 5
    assert len(source.acknowledged) == 5


# -- what no message may do ------------------------------------------------------------------------------------------


def huge_time(body: str) -> str:
    """The workflow's end, far beyond what a calendar holds."""
    envelope = json.loads(body)
    request = WorkflowExecutionEventRequest.FromString(base64.b64decode(envelope["Message"]))
    request.event.occurred_at.seconds = 10**14
    return json.dumps({**envelope, "Message": base64.b64encode(request.SerializeToString()).decode()})


def node_event(case: str, phase: str = "SUCCEEDED") -> str:
    for body in bodies(case):
        event = decode(body)
        raw = json.loads(event.body)["rawEvent"]
        if int(event.encoding) == 5 and raw.get("phase") == phase and raw.get("targetEntity"):
            return body
    raise AssertionError(case)


def task_event(case: str) -> str:
    return next(body for body in bodies(case) if int(decode(body).encoding) == 6)


def set_raw(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["rawEvent"].update(values)


def poison() -> dict[str, Callable[[], list[str]]]:
    def json_number(body: str, key: str) -> str:
        text = altered(body, set_raw(**{key: 12345678}))
        return text.replace("12345678", "1e999")

    surrogate = "\ud800"
    return {
        "an infinite attempt": lambda: [json_number(task_event("covid"), "retryAttempt")],
        "an infinite event version": lambda: [json_number(node_event("covid"), "eventVersion")],
        "a time beyond the calendar": lambda: [
            huge_time(body)
            for body in bodies("covid", "external")
            if "WorkflowExecution" in json.loads(body)["Subject"]
        ],
        "a task's name that is no text": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"]["targetEntity"].update(name=f"flows.{surrogate}"))
        ],
        "a version that is no text": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"]["targetEntity"].update(version=surrogate))
        ],
        "a launch plan that is no text": lambda: [
            altered(
                node_event("covid"),
                lambda d: d.update(launchPlanId={"resourceType": "LAUNCH_PLAN", "name": f"flows.covid.{surrogate}"}),
            )
        ],
        "a node id that is no text": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"]["id"].update(nodeId=surrogate))
        ],
        "an output at no place": lambda: [
            altered(node_event("covid"), set_raw(outputUri=f"s3://{surrogate}/outputs.pb"))
        ],
        "nodes that are each other's parents": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"].update(parentNodeMetadata={"nodeId": "loop"})),
            altered(
                node_event("covid"),
                lambda d: d["rawEvent"].update(
                    id={**d["rawEvent"]["id"], "nodeId": "loop"}, parentNodeMetadata={"nodeId": "loop"}
                ),
            ),
        ],
        "a zero byte": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"]["targetEntity"].update(name="flows.a\x00b"))
        ],
        "a name of a megabyte": lambda: [
            altered(node_event("covid"), lambda d: d["rawEvent"]["targetEntity"].update(name="x" * 900_000))
        ],
        "inline data that is none": lambda: [altered(node_event("covid"), set_raw(inputData=[1, 2], outputData="x"))],
        "labels that are a list": lambda: [altered(node_event("covid"), lambda d: d.update(labels=["a"]))],
        "a time that is a number": lambda: [altered(node_event("covid"), set_raw(occurredAt=5))],
    }


@pytest.mark.parametrize("name", sorted(poison()))
def test_no_message_stops_the_rest(file: Path, name: str) -> None:
    """Invariant 8: whatever one event holds, other executions are derived, delivered and shown."""
    target = RecordingTarget()
    messages = [*bodies("covid"), *poison()[name](), *bodies("diamond")]
    daemon, _ = make_daemon(ScriptedSource(messages), file, target)
    assert daemon.run() == ExitCode.OK
    document = export_of(file)
    json.dumps(document).encode()
    assert "flytesnacks/development/orders-1" in {run["execution"] for run in document["runs"]}
    assert any(kind == "run" and key.endswith("orders-1") for kind, key in target.state)


def test_dead_letters_are_kept_with_their_reasons(file: Path) -> None:
    source = ScriptedSource(["not json", "{}", "[]", "", "%%%", "not json"])
    daemon, _ = make_daemon(source, file)
    assert daemon.run() == ExitCode.OK
    kept = rows(file, "SELECT body, reason, times, kind FROM dead_letter ORDER BY id")
    assert {body for body, *_ in kept} == {b"not json", b"{}", b"[]", b"", b"%%%"}
    assert all(reason and "\n" not in reason and kind == "message" for _, reason, _, kind in kept)
    assert dict((body, times) for body, _, times, _ in kept)[b"not json"] == 2
    assert len(source.acknowledged) == 6
    assert daemon.summary().dead_letters == 6


@pytest.mark.parametrize("stage", ["build", "fold"])
def test_an_execution_that_cannot_be_derived_is_a_dead_letter_and_others_go_on(
    file: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(deriver_module, stage)
    calls = iter([True])

    def broken(*arguments: Any) -> Any:
        if next(calls, False):
            msg = "a defect of ours"
            raise ZeroDivisionError(msg)
        return original(*arguments)

    monkeypatch.setattr(deriver_module, stage, broken)
    daemon, _ = make_daemon(ScriptedSource(bodies_of(["covid", "diamond", "retry"])), file)
    assert daemon.run() == ExitCode.OK
    assert len(export_of(file)["runs"]) == 2
    ((kind, reason),) = rows(file, "SELECT kind, reason FROM dead_letter")
    assert kind == "execution"
    assert "flytesnacks/development/" in reason
    assert "ZeroDivisionError" in reason
    assert daemon.summary().dead_letters == 1
    assert rows(file, "SELECT count(*) FROM execution WHERE due IS NOT NULL") == [(0,)]


def test_an_execution_that_cannot_be_merged_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 8: whatever it is that the catalog cannot take, the rest of its batch is taken."""
    with Engine(new_database(tmp_path)) as engine:
        merge = engine.deriver._merger.merge

        def broken(connection: Connection, merges: Sequence[Merge]) -> Touched:
            if any(item.lineage and item.lineage.execution.name == "covid-1" for item in merges):
                error = "a defect of ours"
                raise ZeroDivisionError(error)
            return merge(connection, merges)

        monkeypatch.setattr(engine.deriver._merger, "merge", broken)
        engine.receive(bodies_of(["covid", "diamond", "retry"]))
        engine.derive(ended=True)
        assert len(engine.export()["runs"]) == 2
        ((kind, reason),) = engine.rows("SELECT kind, reason FROM dead_letter")
        assert (kind, "covid-1" in reason) == ("execution", True)


def test_an_entity_that_cannot_be_rendered_holds_up_no_other(tmp_path: Path) -> None:
    """Invariants 4 and 8: a damaged row is its own delivery's failure, not the end of the target's thread."""
    target = RecordingTarget()
    with Engine(new_database(tmp_path), target) as engine:
        engine.receive(bodies_of(["covid", "diamond"]))
        engine.derive(ended=True)
        damage = "UPDATE run SET document = 'x' WHERE execution = (SELECT min(execution) FROM run)"
        engine.inbox.writer.run(lambda c: c.exec_driver_sql(damage))
        engine.deliver()
        assert [key for kind, key in target.state if kind == "run"] == ["//flytesnacks/development/orders-1"]
        assert engine.rows("SELECT count(*) FROM delivery WHERE attempts > 0") == [(1,)]


def test_a_defect_on_a_known_execution_keeps_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(new_database(tmp_path)) as engine:
        engine.receive(bodies("covid")[:-2])
        engine.derive(ended=True)
        engine.receive(bodies("covid", "external"))

        def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        before = engine.export()
        monkeypatch.setattr(deriver_module, "build", broken)
        engine.derive(ended=True)
        assert engine.export() == before


# -- settling, late events, storage ----------------------------------------------------------------------------------


def test_a_late_event_derives_again_and_settle_doubles(tmp_path: Path) -> None:
    messages = bodies("covid")
    late = next(body for body in messages if int(decode(body).encoding) == 6)
    target = RecordingTarget()
    with Engine(new_database(tmp_path), target, settle_seconds=10.0, long_settle_seconds=100.0) as engine:
        engine.receive([body for body in messages if body != late])
        assert engine.derive() == 0
        engine.clock.advance(10)
        assert engine.derive() == 1
        engine.receive([late])
        engine.clock.advance(19)
        assert engine.derive() == 0
        engine.clock.advance(1)
        assert engine.derive() == 1
        engine.deliver_all()
        assert engine.deriver.counts.derived == 2
        assert dict(target.state) == seen_by_a_new_target(engine)


def test_an_incomplete_tree_waits_for_the_long_settle_time(tmp_path: Path) -> None:
    lost = node_event("covid")
    running = node_event("covid", "RUNNING")
    node = json.loads(decode(running).body)["rawEvent"]["id"]["nodeId"]

    def is_end_of_node(body: str) -> bool:
        event = json.loads(decode(body).body)["rawEvent"]
        return "id" in event and event["id"]["nodeId"] == node and event["phase"] == "SUCCEEDED" or (
            "parentNodeExecutionId" in event and event["phase"] == "SUCCEEDED"
            and event["parentNodeExecutionId"]["nodeId"] == node
        )  # fmt: skip

    kept = [body for body in bodies("covid") if not is_end_of_node(body)]
    assert lost not in kept or len(kept) < len(bodies("covid"))
    with Engine(new_database(tmp_path), settle_seconds=10.0, long_settle_seconds=100.0) as engine:
        engine.receive(kept)
        engine.clock.advance(10)
        engine.derive()
        assert engine.export()["runs"] == []
        engine.clock.advance(89)
        engine.derive()
        assert engine.export()["runs"] == []
        engine.clock.advance(1)
        engine.derive()
        assert len(engine.export()["runs"]) == 1


def is_workflow_end(body: str) -> bool:
    event = decode(body)
    return int(event.encoding) == 4 and json.loads(event.body)["rawEvent"].get("phase") == "SUCCEEDED"


def test_a_lost_success_is_inferred_from_the_end_node(tmp_path: Path) -> None:
    messages = [body for body in bodies("covid") if not is_workflow_end(body)]
    assert len(messages) == len(bodies("covid")) - 1
    with Engine(new_database(tmp_path), settle_seconds=10.0, long_settle_seconds=100.0) as engine:
        engine.receive(messages)
        engine.clock.advance(99)
        assert engine.derive() == 0
        engine.clock.advance(1)
        engine.derive()
        (run,) = engine.export()["runs"]
        assert (run["phase"], run["ended_at"]) == ("SUCCEEDED", None)
        engine.receive(bodies("covid"))
        engine.clock.advance(1000)
        engine.derive()
        (run,) = engine.export()["runs"]
        assert run["ended_at"] is not None


def test_an_open_execution_is_never_due_and_leaves_nothing(tmp_path: Path) -> None:
    with Engine(new_database(tmp_path)) as engine:
        messages = bodies("covid")
        engine.receive(messages[: len(messages) // 2])
        engine.clock.advance(10**7)
        assert engine.derive() == engine.derive(ended=True) == 0
        assert engine.export()["runs"] == []


def test_storage_that_does_not_answer_is_asked_again_later_and_then_done_without(tmp_path: Path) -> None:
    objects = RecordedObjects(down=True)
    options: dict[str, Any] = {"read_attempts": 4, "read_retry_seconds": 5.0}
    with Engine(new_database(tmp_path), objects=objects, **options) as engine:
        engine.receive(bodies("covid"))
        asked = []
        for _ in range(4):
            engine.derive()
            asked.append(len(objects.reads))
            due = engine.inbox.next_due()
            if due is not None:
                engine.clock.advance(due - engine.clock.now() - 0.5)
                engine.derive()
                assert len(objects.reads) == asked[-1]
                engine.clock.advance(0.5)
        assert engine.clock.now() == ManualClock().now() + 5 + 10 + 20
        assert len(set(asked)) == 4
        (run,) = engine.export()["runs"]
        assert all(task["outputs"] == [] for task in run["tasks"])
        assert engine.inbox.is_idle()


def test_storage_that_answers_again_gives_everything(tmp_path: Path) -> None:
    objects = RecordedObjects(down=True)
    with Engine(new_database(tmp_path), objects=objects) as engine:
        engine.receive(bodies("covid"))
        engine.derive()
        objects.down = False
        engine.clock.advance(5)
        engine.derive()
        assert len(engine.export()["datasets"]) == 2


def test_a_replay_gives_storage_the_time_that_the_options_say(tmp_path: Path) -> None:
    """At the end of a replay the tries must not be used up in one second."""
    objects = RecordedObjects(down=True)
    with Engine(new_database(tmp_path), objects=objects, read_attempts=4) as engine:
        engine.receive(bodies("covid"))
        engine.derive(ended=True)
        assert engine.export()["runs"] == []
        objects.down = False
        engine.clock.advance(5)
        engine.derive(ended=True)
        assert len(engine.export()["datasets"]) == 2


def test_one_execution_that_waits_for_storage_holds_up_no_other(tmp_path: Path) -> None:
    class HalfDown(RecordedObjects):
        def _failure(self, uri: str) -> Exception | None:
            self.down = "orders-1" in uri
            return super()._failure(uri)

    with Engine(new_database(tmp_path), objects=HalfDown()) as engine:
        engine.receive(bodies_of(["covid", "diamond"]))
        engine.derive()
        (run,) = engine.export()["runs"]
        assert "covid" in run["execution"]
        assert not engine.inbox.is_idle()


def test_a_merge_that_fails_once_is_done_again_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk between the catalog's statements and the commit: the caches must not remember what is not there."""
    file, target = new_database(tmp_path), RecordingTarget()
    calls = iter([False, True])

    with Engine(file, target) as engine:
        schedule = engine.scheduler.schedule

        def full(connection: Connection, touched: Any) -> None:
            if next(calls, False):
                statement, reason = "COMMIT", OSError("disk full")
                raise OperationalError(statement, None, reason)
            schedule(connection, touched)

        monkeypatch.setattr(engine.scheduler, "schedule", full)
        engine.receive(bodies("covid"))
        engine.derive()
        engine.receive(bodies_of(["covid-again", "caching"]))
        with pytest.raises(OperationalError, match="disk full"):
            engine.derive()
        engine.inbox.writer.run(
            lambda c: c.exec_driver_sql("UPDATE execution SET claimed = 0, due = 0 WHERE claimed = 1")
        )
        engine.derive()
        engine.deliver()
        again, state = engine.export(), dict(target.state)
    with Engine(new_database(tmp_path), RecordingTarget()) as engine:
        engine.receive(bodies_of(["covid", "covid-again", "caching"]))
        engine.derive(ended=True)
        assert again == engine.export()
        assert state == seen_by_a_new_target(engine)


def test_a_job_of_somebody_else_that_fails_beside_a_merge_changes_nothing(tmp_path: Path) -> None:
    """The merge is done twice then: in the transaction that was rolled back, and alone."""
    with Engine(new_database(tmp_path)) as engine:
        engine.receive(bodies("covid"))
        writer, original = engine.inbox.writer, engine.inbox.writer.run
        bad: list[Any] = []

        def run(work: Any) -> Any:
            gate = threading.Event()
            writer.submit(lambda _: gate.wait(SECONDS))
            future = writer.submit(work)
            bad.append(writer.submit(lambda c: c.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")))
            gate.set()
            return future.result(SECONDS)

        writer.run = run  # type: ignore[method-assign]
        engine.derive()
        writer.run = original  # type: ignore[method-assign]
        assert all(future.exception(SECONDS) is not None for future in bad)
        engine.receive(bodies("covid-again"))
        engine.derive()
        again = engine.export()
        assert engine.rows("SELECT count(*) FROM task") == [(3,)]
    with Engine(new_database(tmp_path)) as engine:
        engine.receive(bodies_of(["covid", "covid-again"]))
        engine.derive(ended=True)
        assert again == engine.export()


def test_a_daemon_killed_after_claiming_goes_on(tmp_path: Path) -> None:
    file = new_database(tmp_path)
    with Engine(file) as engine:
        engine.receive(bodies("covid"))
        assert len(engine.inbox.claim(10, lease=600.0)) == 1
        clock = engine.clock
    with Engine(file, clock=clock) as engine:
        assert engine.derive() == 1
        assert len(engine.export()["runs"]) == 1
