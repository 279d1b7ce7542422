"""The inbox: events once each, when executions are due, claims, and what a rollback takes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from flytelineage.errors import InboxLockedError
from flytelineage.events import Encoding, Event, Mark
from flytelineage.inbox.sql import Batch, Claim, DeadLetter, Inbox, Settle, event_key
from flytelineage.testing import ManualClock
from tests.support.catalog import new_database

SETTLE, LONG = 10.0, 300.0
LEASE = 600.0


def event(body: str, mark: Mark = Mark.NONE, execution: str = "/shop/development/e0") -> Event:
    return Event(execution, Encoding.NODE_PROTOBUF, mark, body.encode())


def end(execution: str = "/shop/development/e0") -> Event:
    return event(f"the end of {execution}", Mark.TERMINAL, execution)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return new_database(tmp_path)


@pytest.fixture
def inbox(file: Path, clock: ManualClock) -> Iterator[Inbox]:
    opened = open_inbox(file, clock)
    yield opened
    opened.close()


def open_inbox(file: Path, clock: ManualClock, **options: Any) -> Inbox:
    opened = Inbox(url=f"sqlite:///{file}")
    opened.open(settle=Settle(SETTLE, LONG), clock=clock, **options)
    return opened


def append(inbox: Inbox, *events: Event) -> None:
    inbox.append(Batch(events, [])).result(10)


def rows(inbox: Inbox, sql: str) -> list[Any]:
    return list(inbox.database.connect().exec_driver_sql(sql).all())


def claim(inbox: Inbox, **options: bool) -> list[Claim]:
    return inbox.claim(100, lease=LEASE, **options)


def finish(inbox: Inbox, *claims: Claim) -> None:
    inbox.writer.run(lambda c: inbox.finish(c, claims))


# -- appending -------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_once_however_often_it_comes(inbox: Inbox) -> None:
    append(inbox, event("a"), event("a"), event("b"))
    append(inbox, event("b"), event("a"), event("c"))
    assert rows(inbox, "SELECT count(*) FROM event") == [(3,)]
    assert rows(inbox, "SELECT events FROM execution") == [(3,)]
    assert (inbox.counts.events, inbox.counts.duplicates) == (3, 3)


def test_the_same_bytes_of_two_executions_are_two_events(inbox: Inbox) -> None:
    append(inbox, event("a"), event("a", execution="/shop/development/e1"))
    assert rows(inbox, "SELECT key, events FROM execution ORDER BY key") == [
        ("//shop/development/e0", 1),
        ("//shop/development/e1", 1),
    ]


def test_instances_are_apart(file: Path, clock: ManualClock) -> None:
    for instance in ("", "blue"):
        opened = open_inbox(file, clock, instance=instance)
        append(opened, event("a"))
        assert opened.counts.duplicates == 0
        opened.close()


def test_keys_are_signed_64_bit() -> None:
    keys = {event_key(str(n).encode()) for n in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert min(keys) < 0


def test_events_of_thousands_of_executions_at_once(inbox: Inbox) -> None:
    events = [event("a", execution=f"/shop/development/e{n}") for n in range(1200)]
    append(inbox, *events)
    append(inbox, *events[:100], event("b", Mark.TERMINAL, "/shop/development/e7"))
    assert rows(inbox, "SELECT count(*) FROM execution") == [(1200,)]
    assert inbox.counts.duplicates == 100
    assert rows(inbox, "SELECT key FROM execution WHERE due IS NOT NULL") == [("//shop/development/e7",)]


def test_a_dead_letter_is_kept_once_with_its_times_and_last_reason(inbox: Inbox, clock: ManualClock) -> None:
    start = clock.now()
    for reason in ("first", "x" * 2000):
        inbox.append(Batch([], [DeadLetter(reason, b"body", "m-1")])).result(10)
        clock.advance(5)
    ((kind, reason, body, first, last, times),) = rows(
        inbox, "SELECT kind, reason, body, first_at, last_at, times FROM dead_letter"
    )
    assert (kind, body, first, last, times) == ("message", b"body", start, start + 5, 2)
    assert reason == "x" * 500


def test_a_future_ends_after_its_commit(inbox: Inbox) -> None:
    seen: list[int] = []
    done = threading.Event()

    def look(_: object) -> None:
        with inbox.database.snapshot() as connection:
            seen.append(connection.exec_driver_sql("SELECT count(*) FROM event").scalar_one())
        done.set()

    inbox.append(Batch([event("a")], [])).add_done_callback(look)
    assert done.wait(10)
    assert seen == [1]


class Gate:
    """Keeps the writer busy: what comes meanwhile shares one transaction."""

    def __init__(self, inbox: Inbox) -> None:
        self._open = threading.Event()
        began = threading.Event()

        def wait(_connection: Connection) -> None:
            began.set()
            assert self._open.wait(10)

        inbox.writer.submit(wait)
        assert began.wait(10)

    def open(self) -> None:
        self._open.set()


def fail(_connection: Connection) -> None:
    msg = "a bad job"
    raise ValueError(msg)


def test_events_survive_a_bad_job_in_their_transaction(inbox: Inbox) -> None:
    """Invariant 1: what the rollback took back is written again, to executions that are there."""
    gate = Gate(inbox)
    stored = inbox.append(Batch([event("a"), end()], []))
    bad = inbox.writer.submit(fail)
    gate.open()
    stored.result(10)
    assert bad.exception(10) is not None
    assert rows(inbox, "SELECT key, events, mark FROM execution") == [("//shop/development/e0", 2, 2)]
    orphans = "SELECT count(*) FROM event WHERE execution NOT IN (SELECT id FROM execution)"
    assert rows(inbox, orphans) == [(0,)]


def test_events_after_a_bad_job_do_not_go_to_another_execution(inbox: Inbox) -> None:
    gate = Gate(inbox)
    inbox.append(Batch([event("a")], []))
    inbox.writer.submit(fail)
    gate.open()
    append(inbox, event("x", execution="/shop/development/e1"))
    append(inbox, event("b"))
    found = rows(inbox, "SELECT e.key, v.body FROM event v JOIN execution e ON e.id = v.execution ORDER BY v.body")
    assert found == [
        ("//shop/development/e0", b"a"),
        ("//shop/development/e0", b"b"),
        ("//shop/development/e1", b"x"),
    ]


def test_a_bad_job_in_the_transaction_is_not_counted_twice(inbox: Inbox) -> None:
    gate = Gate(inbox)
    inbox.append(Batch([event("a"), event("a")], [DeadLetter("no event", b"x", "m")]))
    inbox.writer.submit(fail)
    gate.open()
    append(inbox)
    assert (inbox.counts.events, inbox.counts.duplicates, inbox.counts.dead_letters) == (1, 1, 1)


# -- settling --------------------------------------------------------------------------------------------------------


def test_nothing_is_due_for_an_open_execution(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, event("a"), event("b"))
    clock.advance(10**6)
    assert claim(inbox) == claim(inbox, ended=True) == []
    assert inbox.is_idle()
    assert inbox.next_due() is None


def test_an_ended_execution_waits_for_the_settle_time(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, event("a"), end())
    assert inbox.next_due() == clock.now() + SETTLE
    clock.advance(SETTLE - 0.1)
    assert claim(inbox) == []
    clock.advance(0.1)
    (claimed,) = claim(inbox)
    assert (claimed.execution.name, claimed.mark, claimed.events) == ("e0", Mark.TERMINAL, 2)


def test_a_late_event_before_it_is_due_starts_the_settle_time_anew(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE - 1)
    append(inbox, event("a"))
    clock.advance(SETTLE - 1)
    assert claim(inbox) == []
    clock.advance(1)
    assert len(claim(inbox)) == 1


def test_a_duplicate_starts_nothing_anew(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, event("a"), end())
    due = inbox.next_due()
    clock.advance(5)
    append(inbox, event("a"), end())
    assert inbox.next_due() == due
    clock.advance(SETTLE)
    finish(inbox, *claim(inbox))
    append(inbox, event("a"), end())
    assert inbox.is_idle()


def test_an_end_node_without_the_end_takes_the_long_settle_time(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, event("a"), event("end-node", Mark.END_NODE))
    assert inbox.next_due() == clock.now() + LONG
    append(inbox, end())
    assert inbox.next_due() == clock.now() + SETTLE


def test_the_settle_time_doubles_with_every_reopening_up_to_the_long_one(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    waits = []
    for n in range(8):
        due = inbox.next_due()
        assert due is not None
        waits.append(due - clock.now())
        clock.advance(due - clock.now())
        finish(inbox, *claim(inbox))
        assert inbox.is_idle()
        append(inbox, event(f"late {n}"))
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_second_late_event_before_deriving_doubles_nothing_more(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE)
    finish(inbox, *claim(inbox))
    append(inbox, event("late 1"))
    append(inbox, event("late 2"))
    due = inbox.next_due()
    assert due is not None
    assert due - clock.now() == 2 * SETTLE
    assert rows(inbox, "SELECT reopened FROM execution") == [(1,)]


def test_while_the_queue_is_drained_only_what_is_long_quiet_is_taken(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE + 1)
    assert claim(inbox, draining=True) == []
    clock.advance(LONG)
    append(inbox, end("/shop/development/e1"))
    clock.advance(SETTLE + 1)
    assert [c.execution.name for c in claim(inbox, draining=True)] == ["e0"]
    assert [c.execution.name for c in claim(inbox)] == ["e1"]


def test_at_the_end_of_a_replay_nothing_waits(inbox: Inbox) -> None:
    append(inbox, end())
    append(inbox, event("end-node", Mark.END_NODE, "/shop/development/e1"))
    append(inbox, event("open", execution="/shop/development/e2"))
    assert sorted(c.execution.name for c in claim(inbox, ended=True)) == ["e0", "e1"]


def test_at_the_end_of_a_replay_a_back_off_is_still_waited_for(inbox: Inbox, clock: ManualClock) -> None:
    """Storage that does not answer is given its time, not asked again at once until the tries are used up."""
    append(inbox, end())
    (claimed,) = claim(inbox, ended=True)
    inbox.postpone([(claimed, clock.now() + 60)], failed=True)
    assert claim(inbox, ended=True) == []
    clock.advance(60)
    assert len(claim(inbox, ended=True)) == 1


# -- claims ----------------------------------------------------------------------------------------------------------


def test_the_longest_waiting_come_first(inbox: Inbox, clock: ManualClock) -> None:
    for n in (3, 1, 2):
        append(inbox, end(f"/shop/development/e{n}"))
        clock.advance(1)
    clock.advance(SETTLE)
    assert [c.execution.name for c in inbox.claim(2, lease=LEASE)] == ["e3", "e1"]
    assert [c.execution.name for c in inbox.claim(2, lease=LEASE)] == ["e2"]


def test_what_is_claimed_is_claimed_by_nobody_else(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE)
    assert len(claim(inbox)) == 1
    assert claim(inbox) == claim(inbox, ended=True) == []
    assert not inbox.is_idle()


def test_a_claim_that_nobody_finished_is_due_again_after_its_lease(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE)
    claim(inbox)
    clock.advance(LEASE + 1)
    assert len(claim(inbox)) == 1


def test_what_a_killed_process_had_claimed_is_due_at_once(file: Path, clock: ManualClock) -> None:
    first = open_inbox(file, clock)
    append(first, event("a"), end())
    clock.advance(SETTLE)
    assert len(claim(first)) == 1
    first.close()  # without finishing
    second = open_inbox(file, clock)
    try:
        (claimed,) = claim(second)
        assert claimed.events == 2
        finish(second, claimed)
        assert second.is_idle()
    finally:
        second.close()


def test_an_event_that_comes_while_claimed_keeps_the_execution_due(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE)
    (claimed,) = claim(inbox)
    append(inbox, event("late"))
    finish(inbox, claimed)
    assert inbox.next_due() == clock.now() + SETTLE
    assert rows(inbox, "SELECT derived_events, events FROM execution") == [(1, 2)]
    clock.advance(SETTLE)
    (again,) = claim(inbox)
    assert again.events == 2
    finish(inbox, again)
    assert inbox.is_idle()


def test_a_postponed_claim_is_due_when_said_or_when_an_event_says_earlier(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, end())
    clock.advance(SETTLE)
    (claimed,) = claim(inbox)
    inbox.postpone([(claimed, clock.now() + 100)])
    assert inbox.next_due() == clock.now() + 100
    append(inbox, event("late"))
    assert inbox.next_due() == clock.now() + SETTLE
    clock.advance(SETTLE)
    (claimed,) = claim(inbox)
    append(inbox, event("later"))
    inbox.postpone([(claimed, clock.now() + 100)], failed=True)
    assert inbox.next_due() == clock.now() + SETTLE
    clock.advance(SETTLE)
    (claimed,) = claim(inbox)
    assert claimed.attempts == 1
    finish(inbox, claimed)
    assert rows(inbox, "SELECT attempts FROM execution") == [(0,)]


def test_events_are_read_whole(inbox: Inbox, clock: ManualClock) -> None:
    append(inbox, event("a"), end(), end("/shop/development/e1"))
    clock.advance(SETTLE)
    claims = claim(inbox)
    found = inbox.read_events(claims)
    by_name = {c.execution.name: sorted(found[c.id]) for c in claims}
    assert by_name["e0"] == [(2, b"a"), (2, b"the end of /shop/development/e0")]
    assert len(by_name["e1"]) == 1


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_second_inbox_on_the_file_is_refused_and_the_first_goes_on(inbox: Inbox, file: Path) -> None:
    second = Inbox(url=f"sqlite:///{file}")
    with pytest.raises(InboxLockedError):
        second.open()
    second.close()
    append(inbox, event("a"))
    reader = Inbox(url=f"sqlite:///{file}")
    reader.open(readonly=True)
    assert rows(reader, "SELECT count(*) FROM event") == [(1,)]
    with pytest.raises(RuntimeError, match="reading only"):
        _ = reader.writer
    reader.close()


def test_a_closed_inbox_says_so(inbox: Inbox) -> None:
    inbox.close()
    inbox.close()
    with pytest.raises(RuntimeError, match="not open"):
        _ = inbox.database


def test_closing_writes_what_was_appended(file: Path, clock: ManualClock) -> None:
    first = open_inbox(file, clock)
    gate = Gate(first)
    futures = [first.append(Batch([event(str(n))], [])) for n in range(50)]
    closing = threading.Thread(target=first.close)
    closing.start()
    gate.open()
    closing.join(10)
    assert [future.exception(1) for future in futures] == [None] * 50
    second = open_inbox(file, clock)
    assert rows(second, "SELECT count(*) FROM event") == [(50,)]
    second.close()
