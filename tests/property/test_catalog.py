"""Invariants 2 and 3 on recorded executions: order, duplicates and cuts change neither the catalog nor a target."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flytelineage.testing import ManualClock, RecordingTarget
from tests.support.catalog import (
    Document,
    Engine,
    RecordedObjects,
    State,
    bodies,
    bodies_of,
    ingest,
    new_database,
    seen_by_a_new_target,
)
from tests.support.corpus import Publisher
from tests.support.expected import differences

bounded = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32)

COVID = ("covid", "covid-again", "relaunch", "versions", "scheduled")
"""Cases of one workflow, one of them at two versions (and by a launch plan that does not name it)."""

BOTH: tuple[Publisher, ...] = ("external", "cloudevents")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogs")


Whole = tuple[Document, State]


@cache
def at_once(folder: Path, cases: tuple[str, ...], publishers: tuple[Publisher, ...]) -> Whole:
    """The export and a target's state when everything was there before anything was derived."""
    target = RecordingTarget()
    with Engine(new_database(folder, "whole.db"), target) as engine:
        ingest(engine, bodies_of(cases, *publishers))
        return engine.export(), dict(target.state)


def shuffled(random_: random.Random, messages: Sequence[str]) -> list[str]:
    """Every message once or more often, in any order."""
    result = [*messages, *random_.choices(messages, k=len(messages) // 4)]
    random_.shuffle(result)
    return result


def cut(random_: random.Random, messages: Sequence[str]) -> list[list[str]]:
    """In pieces of any size."""
    places = sorted(random_.sample(range(1, len(messages)), random_.randint(1, 6)))
    return [list(messages[a:b]) for a, b in zip([0, *places], [*places, len(messages)], strict=True)]


def assert_same_catalog(engine: Engine, whole: Whole) -> None:
    different = differences(engine.export(), whole[0])
    assert not different, f"the export differs (- missing, + too much):\n{different}"


def assert_same_state(state: State, expected: State) -> None:
    assert sorted(state) == sorted(expected)
    wrong = {key: (entity, expected[key]) for key, entity in state.items() if entity != expected[key]}
    assert not wrong


def run_in_pieces(folder: Path, random_: random.Random, pieces: Sequence[Sequence[str]], whole: Whole) -> None:
    """Derive after each piece; one target is always told, one is mostly down, and one comes late."""
    steady, flaky, late = (RecordingTarget(name=name) for name in ("steady", "flaky", "late"))
    file = new_database(folder)
    clock = ManualClock()
    joins = random_.randrange(len(pieces))
    engine = Engine(file, steady, flaky, clock=clock)
    try:
        for number, piece in enumerate(pieces):
            if number == joins:
                engine.close()
                engine = Engine(file, steady, flaky, late, clock=clock)
            engine.receive(piece)
            clock.advance(1.0)
            if random_.random() < 0.8:
                engine.derive(draining=random_.random() < 0.2)
            flaky.down = random_.random() < 0.7
            if random_.random() < 0.6:
                engine.deliver()
        flaky.down = False
        engine.derive(ended=True)
        engine.deliver_all()
        assert_same_catalog(engine, whole)
        for target in (steady, flaky, late):
            assert_same_state(target.state, whole[1])
    finally:
        engine.close()


@pytest.mark.parametrize("publishers", [("external",), ("cloudevents",), BOTH])
@given(seed=seeds)
@bounded
def test_order_duplicates_and_cuts_change_nothing_in_one_pipeline(
    folder: Path, publishers: tuple[Publisher, ...], seed: int
) -> None:
    random_ = random.Random(seed)
    cases = tuple(sorted(random_.sample(COVID, 3)))
    messages = shuffled(random_, bodies_of(cases, *publishers))
    run_in_pieces(folder, random_, cut(random_, messages), at_once(folder, cases, publishers))


CROSSING = [("caching",), ("recover", "retry"), ("cross-execution",), ("lake-publish", "lake-profile"), ("diamond",)]
"""Cases in which executions read what others wrote, or took it from Flyte's cache, or wrote it to fixed places."""


@pytest.mark.parametrize("publishers", [("external",), ("cloudevents",), BOTH])
@pytest.mark.parametrize("cases", CROSSING, ids="-".join)
@given(seed=seeds)
@settings(bounded, max_examples=6)
def test_order_duplicates_and_cuts_change_nothing_across_executions(
    folder: Path, publishers: tuple[Publisher, ...], cases: tuple[str, ...], seed: int
) -> None:
    random_ = random.Random(seed)
    messages = shuffled(random_, bodies_of(cases, *publishers))
    run_in_pieces(folder, random_, cut(random_, messages), at_once(folder, cases, publishers))


NESTED = ["sub-workflow", "dynamic", "branch", "map", "partial-map", "launch-plan", "lake-bundle", "gates"]


@given(seed=seeds)
@settings(bounded, max_examples=6)
def test_order_duplicates_and_cuts_change_nothing_in_a_shared_module(folder: Path, seed: int) -> None:
    random_ = random.Random(seed)
    cases = tuple(sorted(random_.sample(NESTED, 3)))
    messages = shuffled(random_, bodies_of(cases, "external"))
    run_in_pieces(folder, random_, cut(random_, messages), at_once(folder, cases, ("external",)))


@pytest.mark.parametrize(
    "cases",
    [("covid",), ("caching",), ("cross-execution",), ("lake-publish", "lake-profile"), ("branch", "sub-workflow")],
    ids="-".join,
)
@given(seed=seeds)
@settings(bounded, max_examples=4)
def test_runs_that_move_to_a_better_name_leave_nothing_behind(folder: Path, cases: tuple[str, ...], seed: int) -> None:
    random_ = random.Random(seed)
    external = bodies_of(cases, "external")
    cloudevents = bodies_of(cases, "cloudevents")
    random_.shuffle(external)
    random_.shuffle(cloudevents)
    run_in_pieces(folder, random_, [external, *cut(random_, cloudevents)], at_once(folder, cases, BOTH))


@pytest.mark.parametrize("cases", [("covid", "covid-again"), ("lake-publish", "lake-profile"), ("cross-execution",)])
def test_the_pipeline_of_the_module_is_gone_when_all_its_runs_have_a_better_name(
    folder: Path, cases: tuple[str, ...]
) -> None:
    target = RecordingTarget()
    with Engine(new_database(folder), target) as engine:
        engine.receive(bodies_of(cases, "external"))
        engine.derive()
        engine.deliver()
        (old,) = {pipeline["name"] for pipeline in engine.export()["pipelines"] if pipeline["domain"] == "development"}
        told = {key for key in target.state if key[1].startswith(old)}
        assert told
        engine.receive(bodies_of(cases))
        engine.derive()
        engine.deliver()
        assert_same_catalog(engine, at_once(folder, cases, BOTH))
        names = {pipeline["name"] for pipeline in engine.export()["pipelines"]}
        assert old not in names
        assert not {key for key in target.state if key[1] == old or key[1].startswith(f"{old}/")}
        assert_same_state(target.state, seen_by_a_new_target(engine))


@pytest.mark.parametrize("publisher", BOTH)
@pytest.mark.parametrize("case", ["covid", "diamond", "caching", "recover", "lake-publish", "cross-execution"])
def test_deriving_again_after_the_literals_have_expired_keeps_what_is_known(
    folder: Path, case: str, publisher: Publisher
) -> None:
    objects = RecordedObjects()
    messages = bodies(case, publisher)
    with Engine(new_database(folder), objects=objects) as engine:
        engine.receive(messages[:-1])
        engine.derive(ended=True)
        engine.receive(messages)
        engine.derive(ended=True)
        known = engine.export()
        objects.gone = True
        engine.receive(bodies(case, "external" if publisher == "cloudevents" else "cloudevents"))
        engine.derive(ended=True)
        again = engine.export()
    whole, _ = at_once(folder, (case,), BOTH)
    assert not differences(again, whole)
    assert len(known["datasets"]) == len(again["datasets"])


@given(seed=seeds)
@settings(bounded, max_examples=8)
def test_a_cut_before_the_literals_expire_loses_nothing_known(folder: Path, seed: int) -> None:
    """Derived from a prefix while everything could be read; the rest of the events came when nothing could."""
    random_ = random.Random(seed)
    cases = tuple(sorted(random_.sample(("covid", "diamond", "lake-publish", "versions"), 2)))
    messages = shuffled(random_, bodies_of(cases))
    objects = RecordedObjects()
    with Engine(new_database(folder), objects=objects) as engine:
        engine.receive(messages[: random_.randrange(len(messages))])
        engine.derive(ended=True)
        before = engine.export()
        objects.gone = True
        engine.receive(messages)
        engine.derive(ended=True)
        after = engine.export()
    known = {d["uris"][0]: d["fields"] for d in before["datasets"] if d["fields"] and d["uris"]}
    kept = {d["uris"][0]: d["fields"] for d in after["datasets"] if d["fields"] and d["uris"]}
    latest = {run["execution"]: run for run in after["runs"]}
    for run in before["runs"]:
        for task in run["tasks"]:
            again = [t for t in latest[run["execution"]]["tasks"] if t["node_id"] == task["node_id"]]
            uris = {item["uri"] for t in again for item in (*t["inputs"], *t["outputs"])}
            assert {item["uri"] for item in (*task["inputs"], *task["outputs"])} <= uris
    for uri, fields in known.items():
        if uri in {item for dataset in after["datasets"] for item in dataset["uris"]}:
            assert kept.get(uri) == fields


@given(seed=seeds)
@settings(bounded, max_examples=8)
def test_the_steady_target_always_shows_what_a_new_one_would(folder: Path, seed: int) -> None:
    """Invariant 3 at every moment, not only in the end: lanes follow every change that they must."""
    random_ = random.Random(seed)
    cases = random_.sample([*COVID, *NESTED, "caching", "recover", "cross-execution", "lake-publish"], 4)
    messages = shuffled(random_, bodies_of(cases, "external"))
    messages += random_.sample(bodies_of(cases), 20)
    target = RecordingTarget()
    with Engine(new_database(folder), target) as engine:
        for piece in cut(random_, messages):
            engine.receive(piece)
            engine.derive()
            engine.deliver()
            assert_same_state(target.state, seen_by_a_new_target(engine))
