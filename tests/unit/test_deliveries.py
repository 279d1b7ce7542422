"""Deliveries: one row an entity, the newest state, each target by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from flytelineage.engine.deliveries import Deliverer, Scheduler, counts_of
from flytelineage.errors import TargetRejectedError, TargetUnavailableError
from flytelineage.model import Kind
from flytelineage.targets.base import Change, Target
from flytelineage.testing import RecordingTarget
from tests.support.catalog import Engine, PatientTarget, bodies, bodies_of, new_database, seen_by_a_new_target

ORDER = [kind.value for kind in Kind]


@pytest.fixture
def target() -> PatientTarget:
    return PatientTarget(retry_base_seconds=2.0, retry_cap_seconds=60.0)


@pytest.fixture
def engine(tmp_path: Path, target: PatientTarget) -> Iterator[Engine]:
    with Engine(new_database(tmp_path), target) as opened:
        yield opened


def ingest(engine: Engine, *cases: str, publisher: Any = "cloudevents") -> None:
    engine.receive(bodies_of(cases, publisher))
    engine.derive(ended=True)


def lanes(engine: Engine, columns: str = "kind, key, attempts, due, dead_at", where: str = "1 = 1") -> list[Any]:
    return engine.rows(f"SELECT {columns} FROM delivery WHERE {where} ORDER BY kind, key")  # noqa: S608


def test_everything_is_sent_once_with_its_revision(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "covid")
    engine.deliver()
    keys = [(change.kind.value, change.key) for change in target.changes]
    assert len(set(keys)) == len(keys) == len(lanes(engine))
    assert all(change.entity is not None and change.revision == 1 for change in target.changes)
    assert engine.deliver() == 0


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_nothing_is_sent_before_what_it_refers_to(engine: Engine, target: PatientTarget, batch_size: int) -> None:
    """``Kind`` is the order of delivery: pipelines, datasets, tasks, runs; however small the batches."""
    target.batch_size = batch_size
    ingest(engine, "covid", "diamond")
    engine.deliver()
    order = [ORDER.index(change.kind.value) for change in target.changes]
    assert max(map(len, target.batches)) <= batch_size
    assert order == sorted(order)


def test_many_changes_that_wait_are_one_delivery(engine: Engine, target: PatientTarget) -> None:
    target.down = True
    for case in ("covid", "covid-again", "relaunch"):
        ingest(engine, case)
        engine.deliver()
    target.down = False
    engine.deliver_all()
    pipelines = [change for change in target.changes if change.kind is Kind.PIPELINE]
    assert len(pipelines) == 1
    assert pipelines[0].revision == 3
    assert dict(target.state) == seen_by_a_new_target(engine)


def test_what_has_not_changed_is_not_sent_again(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "covid")
    engine.deliver()
    before = len(target.changes)
    ingest(engine, "covid", publisher="external")  # says nothing new, but derives again
    assert engine.deliver() == 0 or len(target.changes) == before
    ingest(engine, "covid-again")
    engine.deliver()
    again = target.changes[before:]
    assert "pipeline" not in {change.kind.value for change in again}
    assert engine.deliverers[0].counts.unchanged > 0


def test_a_back_off_doubles_up_to_its_cap(engine: Engine, target: PatientTarget) -> None:
    target.down = True
    ingest(engine, "single-task")
    waits = []
    for _ in range(8):
        engine.deliver()
        due = engine.deliverers[0].next_due()
        assert due is not None
        waits.append(due - engine.clock.now())
        engine.clock.advance(due - engine.clock.now())
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_back_off_is_drawn_between_its_half_and_its_whole(tmp_path: Path, target: PatientTarget) -> None:
    drawn: list[tuple[float, float]] = []

    def jitter(least: float, most: float) -> float:
        drawn.append((least, most))
        return least

    with Engine(new_database(tmp_path), target) as engine:
        deliverer = Deliverer(target, engine.inbox, engine.clock, jitter)
        target.down = True
        ingest(engine, "single-task")
        deliverer.step()
        engine.clock.advance(1.0)
        deliverer.step()
    assert set(drawn) == {(1.0, 2.0), (2.0, 4.0)}


def test_a_new_revision_does_not_cut_a_back_off_short(engine: Engine, target: PatientTarget) -> None:
    target.down = True
    ingest(engine, "covid")
    for _ in range(3):
        engine.deliver()
        due = engine.deliverers[0].next_due()
        assert due is not None
        engine.clock.advance(due - engine.clock.now())
    engine.deliver()
    waiting = lanes(engine, "key, due, attempts", "kind = 'pipeline'")
    ingest(engine, "covid-again")
    assert lanes(engine, "key, due, attempts", "kind = 'pipeline'") == waiting


def test_a_target_that_says_when_is_asked_then(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "single-task")
    ((key,),) = lanes(engine, "key", "kind = 'pipeline'")
    target.refused[key] = TargetUnavailableError("throttled", retry_after=33.0)
    engine.deliver()
    assert engine.deliverers[0].next_due() == engine.clock.now() + 33
    target.refused[key] = TargetUnavailableError("throttled", retry_after=10**9)
    engine.clock.advance(33)
    engine.deliver()
    assert engine.deliverers[0].next_due() == engine.clock.now() + 60


def test_what_is_refused_for_good_is_a_dead_letter_until_it_changes(
    engine: Engine, target: PatientTarget, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(engine, "covid")
    ((key,),) = lanes(engine, "key", "kind = 'task' AND key LIKE '%fetch'")
    target.refused[key] = TargetRejectedError("no such thing" + "x" * 2000)
    engine.deliver()
    ((attempts, due, dead_at, error),) = lanes(engine, "attempts, due, dead_at, last_error", f"key = '{key}'")
    assert (attempts, due, dead_at) == (1, None, engine.clock.now())
    assert len(error) <= 500
    assert [record.levelno for record in caplog.records if getattr(record, "action", "") == "delivery_dead"] == [
        logging.ERROR
    ]
    assert len(target.state) == len(lanes(engine)) - 1
    engine.clock.advance(10**6)
    assert engine.deliver() == 0
    target.refused.clear()
    ingest(engine, "versions")
    engine.deliver()
    assert ("task", key) in target.state
    assert lanes(engine, "dead_at, last_error", f"key = '{key}'") == [(None, "")]


def test_a_dead_letter_that_is_revived_has_all_its_tries_again(tmp_path: Path) -> None:
    target = PatientTarget(max_attempts=3, retry_base_seconds=1.0)
    with Engine(new_database(tmp_path), target) as engine:
        target.down = True
        ingest(engine, "covid")
        engine.deliver_all()
        assert lanes(engine, "key", "dead_at IS NULL") == []
        ingest(engine, "versions")
        engine.deliver()
        target.down = False
        engine.deliver_all()
        assert dict(target.state).keys() >= {key for key in seen_by_a_new_target(engine) if key[0] == "task"}


def test_one_target_is_down_while_another_is_served(tmp_path: Path) -> None:
    down, up = PatientTarget(name="down"), PatientTarget(name="up")
    down.down = True
    with Engine(new_database(tmp_path), down, up) as engine:
        ingest(engine, "covid")
        engine.deliver()
        assert down.changes == []
        assert dict(up.state) == seen_by_a_new_target(engine)
        assert counts_of(engine.inbox, ["up"]) == (0, 0)
        waiting = counts_of(engine.inbox, ["down"])
        assert waiting[0] == waiting[1] == len(lanes(engine, where="target = 'down'"))
        down.down = False
        engine.deliver_all()
        assert dict(down.state) == dict(up.state)


def test_one_entity_that_fails_holds_up_no_other(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "covid")
    ((key,),) = lanes(engine, "key", "kind = 'pipeline'")
    target.refused[key] = OSError("a defect of the target")
    engine.deliver()
    assert len(target.state) == len(lanes(engine)) - 1
    assert lanes(engine, "attempts, dead_at", f"kind = 'pipeline' AND key = '{key}'") == [(1, None)]
    target.refused.clear()
    engine.deliver_all()
    assert dict(target.state) == seen_by_a_new_target(engine)


class Careless(RecordingTarget):
    """Its whole batch may raise, or lose outcomes: a defect of the target."""

    fault = "raises"

    def send_all(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        if self.fault == "raises":
            msg = "not per item"
            raise OSError(msg)
        return super().send_all(changes)[: -1 if self.fault == "loses" else None]


@pytest.mark.parametrize("fault", ["raises", "loses"])
def test_a_target_whose_batch_goes_wrong_is_tried_again(tmp_path: Path, fault: str) -> None:
    """Invariant 4: a defect of one target is not the end of the process."""
    target = Careless(name="careless")
    target.fault = fault
    with Engine(new_database(tmp_path), target) as engine:
        ingest(engine, "single-task")
        engine.deliver()
        assert lanes(engine, "key", "attempts = 0") == []
        target.fault = ""
        engine.deliver_all()
        assert dict(target.state) == seen_by_a_new_target(engine)


def test_an_entity_that_is_no_more_is_removed(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "covid", publisher="external")
    engine.deliver()
    ingest(engine, "covid")
    engine.deliver()
    removed = [change for change in target.changes if change.entity is None]
    assert {change.kind for change in removed} == {Kind.PIPELINE, Kind.DATASET, Kind.TASK}
    assert dict(target.state) == seen_by_a_new_target(engine)
    ingest(engine, "covid-again", publisher="external")
    engine.deliver()
    assert dict(target.state) == seen_by_a_new_target(engine)


def test_who_never_heard_of_an_entity_need_not_hear_that_it_is_gone(engine: Engine, target: PatientTarget) -> None:
    ingest(engine, "covid", publisher="external")
    ingest(engine, "covid")
    engine.deliver()
    assert [change for change in target.changes if change.entity is None] == []
    assert counts_of(engine.inbox, [target.name]) == (0, 0)


def test_an_entity_that_arrived_without_an_answer_is_removed_too(engine: Engine, target: PatientTarget) -> None:
    """The target shows what it applied before its answer was lost (invariant 3)."""
    target.loses_answers = True
    ingest(engine, "covid", publisher="external")
    engine.deliver()
    assert target.state
    target.loses_answers = False
    ingest(engine, "covid")
    engine.deliver_all()
    assert dict(target.state) == seen_by_a_new_target(engine)


def test_a_state_that_came_back_after_a_lost_answer_is_sent_again(engine: Engine, target: PatientTarget) -> None:
    """A was delivered, B was applied without an answer, A is true again: the target must hear A."""
    ingest(engine, "covid", publisher="external")
    engine.deliver()
    target.loses_answers = True
    before = dict(target.state)
    ((identity, state),) = engine.rows("SELECT id, state FROM pipeline")

    def change(text: str) -> None:
        def write(connection: Connection) -> None:
            connection.exec_driver_sql("UPDATE pipeline SET state = ? WHERE id = ?", (text, identity))
            connection.exec_driver_sql("UPDATE delivery SET wanted = wanted + 1, due = 0 WHERE kind = 'pipeline'")

        engine.inbox.writer.run(write)
        engine.deliver()

    change(state.replace('"flows.covid"', '"flows.other"'))
    target.loses_answers = False
    change(state)
    engine.deliver_all()
    assert dict(target.state) == before


@pytest.mark.parametrize("away", [False, True])
def test_a_target_that_is_new_or_was_away_is_told_everything(tmp_path: Path, away: bool) -> None:
    file = new_database(tmp_path)
    late, other = PatientTarget(name="late"), PatientTarget(name="other")
    if away:
        with Engine(file, late, other) as engine:
            ingest(engine, "covid", publisher="external")
            engine.deliver()
    with Engine(file, other) as engine:
        ingest(engine, "covid", "caching")
        engine.deliver()
    with Engine(file) as engine:  # not even one target
        ingest(engine, "covid-again")
    with Engine(file, late, other) as engine:
        engine.deliver()
        assert dict(late.state) == seen_by_a_new_target(engine)
        assert dict(other.state) == seen_by_a_new_target(engine)
        sent = len(late.changes)
    with Engine(file, late, other) as engine:
        engine.deliver()
        assert len(late.changes) == sent


def test_a_target_that_has_seen_all_is_not_told_again_at_a_restart(tmp_path: Path) -> None:
    file, target = new_database(tmp_path), PatientTarget()
    with Engine(file, target) as engine:
        ingest(engine, "covid")
        engine.deliver()
    with Engine(file, target) as engine:
        assert engine.deliver() == 0


def test_numbers_that_shift_are_told(engine: Engine, target: PatientTarget) -> None:
    """The other branch appears: what ran second now bears another number, everywhere it is named."""
    for case in ("sub-workflow", "branch", "dynamic", "launch-plan"):
        engine.receive(bodies(case, "external"))
        engine.derive(ended=True)
        engine.deliver()
        assert dict(target.state) == seen_by_a_new_target(engine)
    assert any("#2" in key for _, key in target.state)


def test_a_run_that_comes_while_its_lane_is_sent_stays_due(engine: Engine) -> None:
    class Interrupted(RecordingTarget):
        def send_all(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
            if not self.changes:
                ingest(engine, "versions")
            return super().send_all(changes)

    target: Target = Interrupted(name="recording")
    ingest(engine, "covid")
    deliverer = Deliverer(target, engine.inbox, engine.clock)
    while deliverer.step():
        pass
    assert isinstance(target, RecordingTarget)
    assert dict(target.state) == seen_by_a_new_target(engine)


def test_what_refers_to_unresolved_data_sends_no_name_that_was_never_sent(
    engine: Engine, target: PatientTarget
) -> None:
    """An unresolved dataset is in the catalog only (model.UNRESOLVED): targets must not be pointed at it."""
    consumer = [b for b in bodies("cross-execution") if "consume" in _text(b)]
    assert 0 < len(consumer) < len(bodies("cross-execution"))
    engine.receive(consumer)
    engine.derive(ended=True)
    engine.deliver()
    assert any(d["platform"] == "unresolved" for d in engine.export()["datasets"])
    sent = {getattr(entity, "name", "") for (kind, _), entity in target.state.items() if kind == "dataset"}
    for (kind, _), entity in target.state.items():
        if kind == "task":
            assert {*entity.inputs, *entity.outputs} <= sent  # type: ignore[union-attr]


def _text(body: str) -> str:
    from flytelineage.events import decode

    return decode(body).execution


def test_a_scheduler_without_targets_only_counts(tmp_path: Path) -> None:
    with Engine(new_database(tmp_path)) as engine:
        ingest(engine, "covid")
        assert lanes(engine) == []
        assert engine.rows("SELECT value FROM counter") == [(1,)]
        assert isinstance(engine.scheduler, Scheduler)
