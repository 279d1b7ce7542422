"""The catalog's merge by itself, on made-up lineage: the same runs give the same catalog, however they came."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flytelineage.catalog.merge import Merge, Merger, covers
from flytelineage.inbox import schema
from flytelineage.lineage.types import (
    DatasetLineage,
    Foreign,
    Input,
    Lineage,
    Made,
    Output,
    Placed,
    Ref,
    TaskKey,
    TaskLineage,
    TaskRunLineage,
)
from flytelineage.model import ExecutionId, Field, NamingRule
from flytelineage.testing import RecordingTarget
from tests.support.catalog import Document, Engine, new_database, seen_by_a_new_target
from tests.support.expected import differences

SECOND = 1_000_000_000


def execution(name: str, **parts: str) -> ExecutionId:
    return ExecutionId(parts.get("instance", ""), parts.get("org", ""), "shop", "development", name)


def key(task: str, path: str = "n0", version: str = "v1") -> TaskKey:
    return TaskKey(task, version, path)


def raw(name: str, node: str = "n0", variable: str = "o0") -> str:
    return f"s3://raw/ab/{name}-{node}-0/{variable}"


def task(
    task_key: TaskKey,
    inputs: Iterable[tuple[Ref, str]] = (),
    outputs: Iterable[tuple[Ref, str]] = (),
    upstream: Iterable[TaskKey] = (),
    kind: str = "python-task",
    cached: bool = False,
) -> TaskLineage:
    run = TaskRunLineage(
        task_key.path.replace("/", "-"),
        task_key.path,
        0,
        None,
        "SUCCEEDED",
        SECOND,
        2 * SECOND,
        cached,
        None,
        inputs=tuple(Input("i0", ref, uri) for ref, uri in inputs),
        outputs=tuple(Output(ref.variable if isinstance(ref, Made) else "o0", ref, uri, False) for ref, uri in outputs),
    )
    return TaskLineage(task_key, task_key.task, kind, (run,), tuple(sorted(upstream)), ())


def dataset(ref: Made | Placed, uri: str, column: str | None = None, wrote: bool = True) -> DatasetLineage:
    fields = None if column is None else (Field(column, "int64", nullable=True),)
    return DatasetLineage(ref, wrote, "parquet", (uri,), fields, "file" if fields else None, 3 if fields else None)


def lineage(
    name: str,
    tasks: Sequence[TaskLineage],
    datasets: Sequence[DatasetLineage] = (),
    *,
    start: int = 10,
    workflow: str = "flows.orders",
    rule: NamingRule = NamingRule.MODULE,
    tags: tuple[str, ...] = (),
    owners: tuple[str, ...] = (),
    **parts: str,
) -> Lineage:
    return Lineage(
        execution=execution(name, **parts),
        phase="SUCCEEDED",
        phase_inferred=False,
        started_at=start * SECOND,
        ended_at=(start + 5) * SECOND,
        parent=None,
        workflow=workflow,
        module=workflow if rule is NamingRule.MODULE else workflow.rpartition(".")[0],
        naming_rule=rule,
        tags=tags,
        owners=owners,
        tasks=tuple(tasks),
        datasets=tuple(datasets),
    )


class Catalog(Engine):
    """A database into which lineage is merged directly, with its deliveries."""

    def __init__(self, file: Path, *targets: RecordingTarget) -> None:
        super().__init__(file, *targets)
        self.merger = Merger()
        self._rows: dict[ExecutionId, int] = {}

    def row(self, identity: ExecutionId) -> int:
        if identity not in self._rows:
            self._rows[identity] = self.inbox.writer.run(
                lambda c: (
                    c.exec_driver_sql(
                        "INSERT INTO execution (key, mark, events, last_event_at, derived_events, reopened, attempts,"
                        " claimed) VALUES (?, 2, 1, 0, 0, 0, 0, 0)",
                        (identity.key,),
                    ).lastrowid
                )
            )
        return self._rows[identity]

    def merge(self, *lineages: Lineage, gone: Sequence[ExecutionId] = (), data: str = "{}") -> None:
        merges = [Merge(self.row(item.execution), item, data) for item in lineages]
        merges += [Merge(self.row(identity), None) for identity in gone]

        def write(connection: Any) -> None:
            touched = self.merger.merge(connection, merges)
            if touched.runs:
                self.scheduler.schedule(connection, touched)

        self.inbox.writer.run(write)

    def clear(self) -> None:
        """Empty every table; for the next example."""
        names = [table.name for table in schema.metadata.sorted_tables]
        self.inbox.writer.run(lambda c: [c.exec_driver_sql(f"DELETE FROM {name}") for name in names])  # noqa: S608
        self.merger.forget()
        self._rows.clear()
        self.inbox.writer.run(self.scheduler.seed)
        for deliverer in self.deliverers:
            assert isinstance(deliverer.target, RecordingTarget)
            deliverer.target.changes.clear()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(new_database(tmp_path), RecordingTarget()) as opened:
        yield opened  # type: ignore[misc]  # Engine.__enter__ gives itself


def document(catalog: Catalog, *lineages: Lineage) -> Document:
    """What the catalog says when it sees these, and nothing else, at once."""
    catalog.clear()
    if lineages:
        catalog.merge(*lineages)
    return catalog.export()


def assert_same(actual: Document, expected: Document) -> None:
    different = differences(actual, expected)
    assert not different, f"the export differs (- missing, + too much):\n{different}"


def names(document: Document, kind: str) -> list[str]:
    return [entity["name"] for entity in document[kind]]


# -- the property: any order, any cuts, any earlier words of the same execution --------------------------------------

TASKS = ("flows.orders.load", "flows.orders.clean")
PLACES = (Placed("s3", "lake/gold"), Placed("s3", "landing/in"))


def made_up(random_: random.Random, number: int, *, named: bool) -> Lineage:
    """One execution's lineage: a few tasks, some branches not taken, reading others' data and places."""
    name = f"e{number}"
    version = random_.choice(("v1", "v2"))
    tasks: list[TaskLineage] = []
    datasets: dict[Made | Placed, DatasetLineage] = {}
    for path in sorted(random_.sample(("n0", "n1", "n2", "n10"), random_.randint(1, 3))):
        task_key = key(random_.choice(TASKS), path, version)
        inputs: list[tuple[Ref, str]] = []
        outputs: list[tuple[Ref, str]] = []
        upstream: list[TaskKey] = []
        for _ in range(random_.randint(0, 2)):
            kind = random_.random()
            if kind < 0.45:
                other = f"e{random_.randrange(5)}"
                if other != name:
                    inputs.append((Foreign(uri := raw(other, random_.choice(("n0", "n1"))), None), uri))
            elif kind < 0.7:
                place = random_.choice(PLACES)
                uri = f"s3://{place.name}"
                inputs.append((place, uri))
                datasets.setdefault(place, dataset(place, uri, wrote=False))
            elif tasks:
                writer = random_.choice(tasks)
                inputs.append((Made(writer.key, "o0"), raw(name, writer.key.path)))
                upstream.append(writer.key)
        if random_.random() < 0.2:
            other = f"e{random_.randrange(5)}"
            if other != name:
                outputs.append((Foreign(uri := raw(other, path), Made(task_key, "o0")), uri))
        elif random_.random() < 0.3:
            place = random_.choice(PLACES)
            outputs.append((place, uri := f"s3://{place.name}"))
            datasets[place] = dataset(place, uri, random_.choice((None, "a", "b")))
        else:
            made = Made(task_key, "o0")
            outputs.append((made, uri := raw(name, path)))
            datasets[made] = dataset(made, uri, random_.choice((None, "a", "b")))
        tasks.append(task(task_key, inputs, outputs, upstream, random_.choice(("", "python-task"))))
    workflow = random_.choice(("flows.orders", "flows.invoices"))
    rule = NamingRule.MODULE
    if named and random_.random() < 0.5:
        workflow, rule = "flows.orders.orders_wf", NamingRule.LAUNCH_PLAN
    return lineage(
        name,
        tasks,
        list(datasets.values()),
        start=random_.randint(1, 6),
        workflow=workflow,
        rule=rule,
        tags=random_.choice(((), ("team:a",), ("team:b",))),
        owners=random_.choice(((), ("ann",))),
    )


def merge_in_pieces(catalog: Catalog, random_: random.Random, finals: Sequence[Lineage], *, again: bool) -> None:
    """Each execution once or more often, other words before the last ones, some merged together."""
    pending: list[list[Lineage]] = []
    for number, final in enumerate(finals):
        earlier = [made_up(random_, number, named=True) for _ in range(random_.randint(0, 2))] if again else []
        pending.append([*earlier, final])
    while any(pending):
        chosen = random_.sample([p for p in pending if p], random_.randint(1, sum(map(bool, pending))))
        catalog.merge(*(p.pop(0) for p in chosen))
        if random_.random() < 0.2:
            catalog.merger.forget()  # a restart


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with Catalog(new_database(tmp_path_factory.mktemp("merge")), RecordingTarget()) as opened:
        yield opened  # type: ignore[misc]


bounded = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32)


@given(seed=seeds)
@bounded
def test_the_order_of_merging_changes_nothing(shared: Catalog, seed: int) -> None:
    random_ = random.Random(seed)
    finals = [made_up(random_, number, named=True) for number in range(5)]
    expected = document(shared, *finals)
    shared.clear()
    merge_in_pieces(shared, random_, finals, again=False)
    assert_same(shared.export(), expected)


@given(seed=seeds)
@bounded
def test_what_an_execution_said_before_changes_nothing(shared: Catalog, seed: int) -> None:
    random_ = random.Random(seed)
    finals = [made_up(random_, number, named=True) for number in range(5)]
    expected = document(shared, *finals)
    shared.clear()
    merge_in_pieces(shared, random_, finals, again=True)
    assert_same(shared.export(), expected)


@given(seed=seeds)
@example(179)  # numbers that fall when a task's last run leaves
@example(4546)  # a dataset whose number went to a task that makes none
@example(1470356)  # an upstream that another pipeline's task had proved, and no longer does
@bounded
def test_a_target_that_heard_every_step_shows_what_a_new_one_does(shared: Catalog, seed: int) -> None:
    random_ = random.Random(seed)
    shared.clear()
    finals = [made_up(random_, number, named=True) for number in range(4)]
    for final in finals:
        shared.merge(final)
        if random_.random() < 0.5:
            shared.deliver()
    for number in range(2):
        shared.merge(made_up(random_, number, named=True))
        if random_.random() < 0.5:
            shared.deliver()
    shared.deliver_all()
    (deliverer,) = shared.deliverers
    state, expected = deliverer.target.state, seen_by_a_new_target(shared)  # type: ignore[attr-defined]
    assert sorted(state) == sorted(expected)
    assert {k: (state[k], expected[k]) for k in state if state[k] != expected[k]} == {}


@given(seed=seeds)
@settings(bounded, max_examples=30)
def test_taking_everything_back_leaves_an_empty_catalog(shared: Catalog, seed: int) -> None:
    random_ = random.Random(seed)
    shared.clear()
    finals = [made_up(random_, number, named=True) for number in range(4)]
    shared.merge(*finals)
    shared.deliver()
    for final in finals:
        shared.merge(gone=[final.execution])
    shared.deliver_all()
    assert shared.export() == {"version": 1, "pipelines": [], "tasks": [], "datasets": [], "runs": []}
    (deliverer,) = shared.deliverers
    assert deliverer.target.state == {}  # type: ignore[attr-defined]


# -- each thing that can go wrong, by itself -------------------------------------------------------------------------


def test_the_same_merge_twice_changes_no_row(catalog: Catalog) -> None:
    made = Made(key("flows.orders.load"), "o0")
    run = lineage("e0", [task(made.key, outputs=[(made, raw("e0"))])], [dataset(made, raw("e0"), "a")])
    catalog.merge(run)
    before = everything(catalog)
    catalog.merge(run)
    assert everything(catalog) == before


def everything(catalog: Catalog) -> dict[str, list[Any]]:
    tables = [table.name for table in schema.metadata.sorted_tables]
    return {name: sorted(map(tuple, catalog.rows(f"SELECT * FROM {name}"))) for name in tables}  # noqa: S608


def test_an_older_run_that_comes_last_changes_only_what_is_its_own(catalog: Catalog) -> None:
    made = Made(key("flows.orders.load"), "o0")

    def run(name: str, start: int, column: str) -> Lineage:
        return lineage(
            name, [task(made.key, outputs=[(made, raw(name))])], [dataset(made, raw(name), column)], start=start
        )

    catalog.merge(run("new", 20, "b"))
    catalog.merge(run("old", 10, "a"))
    (entity,) = catalog.export()["datasets"]
    assert entity["uris"] == [raw("new")]
    assert [field["name"] for field in entity["fields"]] == ["b"]


def test_a_schema_that_the_latest_run_does_not_know_stays_that_of_the_run_before(catalog: Catalog) -> None:
    made = Made(key("flows.orders.load"), "o0")
    for name, start, column in (("old", 10, "a"), ("new", 20, None)):
        catalog.merge(
            lineage(
                name, [task(made.key, outputs=[(made, raw(name))])], [dataset(made, raw(name), column)], start=start
            )
        )
    (entity,) = catalog.export()["datasets"]
    assert entity["uris"] == [raw("new")]
    assert [field["name"] for field in entity["fields"]] == ["a"]


def test_a_branch_that_appears_shifts_the_numbers_and_an_old_version_does_not(catalog: Catalog) -> None:
    def run(name: str, start: int, version: str, *paths: str) -> Lineage:
        keys = [key("flows.orders.load", path, version) for path in paths]
        return lineage(
            name,
            [task(k, outputs=[(Made(k, "o0"), raw(name, k.path))]) for k in keys],
            [dataset(Made(k, "o0"), raw(name, k.path)) for k in keys],
            start=start,
        )

    catalog.merge(run("e0", 10, "v1", "n9"))
    assert names(catalog.export(), "tasks") == ["flows.orders.load"]
    catalog.merge(run("e1", 20, "v1", "n10"))
    assert names(catalog.export(), "tasks") == ["flows.orders.load", "flows.orders.load#2"]
    runs = {run["execution"].rpartition("/")[2]: run for run in catalog.export()["runs"]}
    assert [t["task"] for t in runs["e0"]["tasks"]] == ["flows.orders.load"]
    assert [t["task"] for t in runs["e1"]["tasks"]] == ["flows.orders.load#2"]
    catalog.merge(run("e2", 5, "v0", "n1", "n2", "n3"))
    runs = {run["execution"].rpartition("/")[2]: run for run in catalog.export()["runs"]}
    assert [t["task"] for t in runs["e1"]["tasks"]] == ["flows.orders.load#2"]


def test_a_place_survives_the_move_of_its_only_run_to_a_better_name(catalog: Catalog) -> None:
    """The new pipeline's edges must be found before they are in the database."""
    place = Placed("s3", "lake/gold")

    def run(workflow: str, rule: NamingRule) -> Lineage:
        uri = "s3://lake/gold"
        return lineage(
            "e0", [task(key("flows.orders.publish"), outputs=[(place, uri)])], [dataset(place, uri, "a")],
            workflow=workflow, rule=rule,
        )  # fmt: skip

    catalog.merge(run("flows.orders", NamingRule.MODULE))
    catalog.merge(run("flows.orders.orders_wf", NamingRule.LAUNCH_PLAN))
    moved = catalog.export()
    assert_same(moved, document(catalog, run("flows.orders.orders_wf", NamingRule.LAUNCH_PLAN)))
    assert names(moved, "datasets") == ["lake/gold"]


def test_a_run_merged_beside_one_that_leaves_its_place_keeps_the_place(catalog: Catalog) -> None:
    place, uri = Placed("s3", "lake/gold"), "s3://lake/gold"

    def run(name: str, workflow: str, *, writes: bool) -> Lineage:
        at = [(place, uri)] if writes else []
        return lineage(
            name, [task(key(f"{workflow}.publish"), outputs=at)], [dataset(place, uri, "a")] if writes else [],
            workflow=workflow,
        )  # fmt: skip

    catalog.merge(run("e0", "flows.orders", writes=True))
    catalog.merge(run("e0", "flows.orders", writes=False), run("e1", "flows.invoices", writes=True))
    together = catalog.export()
    finals = run("e0", "flows.orders", writes=False), run("e1", "flows.invoices", writes=True)
    assert_same(together, document(catalog, *finals))
    assert names(together, "datasets") == ["lake/gold"]


def test_rejoining_a_pipeline_keeps_what_other_tasks_of_it_read_from_unknown_writers(catalog: Catalog) -> None:
    made = Made(key("flows.orders.load"), "o0")
    reader = lineage("e0", [task(key("flows.orders.clean", "n5"), inputs=[(Foreign(raw("lost"), None), raw("lost"))])])
    first = lineage("e1", [task(made.key, outputs=[(made, raw("e1"))])], [dataset(made, raw("e1"))], start=20)
    second = lineage("e1", [task(made.key)], start=20)
    catalog.merge(reader)
    catalog.merge(first)
    assert raw("lost") in names(catalog.export(), "datasets")
    catalog.merge(second)  # takes an edge back, so that the pipeline's runs are joined anew
    rejoined = catalog.export()
    assert_same(rejoined, document(catalog, reader, second))
    assert raw("lost") in names(rejoined, "datasets")


def test_a_place_that_nobody_touches_any_more_is_removed_at_the_target(catalog: Catalog) -> None:
    place, uri = Placed("s3", "lake/gold"), "s3://lake/gold"
    publish = key("flows.orders.publish")
    catalog.merge(lineage("e0", [task(publish, outputs=[(place, uri)])], [dataset(place, uri)]))
    catalog.deliver()
    catalog.merge(lineage("e0", [task(publish)]))
    catalog.deliver()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert names(catalog.export(), "datasets") == []
    assert ("dataset", "s3://lake/gold") not in deliverer.target.state


def test_a_place_taken_from_the_cache_is_a_dataset(catalog: Catalog) -> None:
    """The edge to what a cached task wrote at a fixed place stays, and so does what it points at (invariant 6)."""
    place, uri = Placed("s3", "lake/gold"), "s3://lake/gold"
    catalog.merge(lineage("e0", [task(key("flows.orders.publish"), outputs=[(place, uri)], cached=True)]))
    exported = catalog.export()
    named = {item["dataset"] for run in exported["runs"] for t in run["tasks"] for item in t["outputs"]}
    assert named <= set(names(exported, "datasets"))
    assert exported["tasks"][0]["outputs"] == ["lake/gold"]


def test_two_executions_that_wrote_one_uri_resolve_the_same_in_any_order(catalog: Catalog) -> None:
    shared_uri = raw("shared")

    def writer(name: str, workflow: str, start: int) -> Lineage:
        made = Made(key(f"{workflow}.load"), "o0")
        return lineage(
            name, [task(made.key, outputs=[(made, shared_uri)])], [dataset(made, shared_uri)],
            workflow=workflow, start=start,
        )  # fmt: skip

    runs = (
        writer("e0", "flows.orders", 10),
        writer("e1", "flows.invoices", 20),
        lineage("e2", [task(key("flows.b.use"), inputs=[(Foreign(shared_uri, None), shared_uri)])], workflow="flows.b"),
    )
    forward = document(catalog, *runs)
    assert_same(document(catalog, *reversed(runs)), forward)


def test_a_removed_pipelines_row_id_is_not_taken_for_a_new_one(catalog: Catalog) -> None:
    """SQLite gives the greatest row id again; a delivery that still waits must not send another pipeline instead."""
    load = key("flows.orders.load")
    catalog.merge(lineage("e0", [task(load)], workflow="flows.orders.orders_wf", rule=NamingRule.LAUNCH_PLAN))
    catalog.merge(lineage("e1", [task(load)]))
    catalog.deliver()
    # e1's better name is known while the target is not asked; then another workflow comes.
    catalog.merge(lineage("e1", [task(load)], workflow="flows.orders.orders_wf", rule=NamingRule.LAUNCH_PLAN))
    catalog.merge(lineage("e2", [task(key("flows.other.load"))], workflow="flows.other"))
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert deliverer.target.state == seen_by_a_new_target(catalog)


def renumbered_beside_a_reader(catalog: Catalog) -> Mapping[tuple[str, str], Any]:
    late, early = key("flows.orders.load", "n5"), key("flows.orders.load", "n1")
    catalog.merge(
        lineage("e0", [task(late, outputs=[(Made(late, "o0"), raw("e0"))])], [dataset(Made(late, "o0"), raw("e0"))])
    )
    catalog.merge(
        lineage("e1", [task(key("flows.b.use"), inputs=[(Foreign(raw("e0"), None), raw("e0"))])], workflow="flows.b")
    )
    catalog.deliver()
    catalog.merge(
        lineage("e2", [task(early, outputs=[(Made(early, "o0"), raw("e2"))])], [dataset(Made(early, "o0"), raw("e2"))])
    )
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    return deliverer.target.state


def test_runs_of_other_pipelines_hear_that_a_dataset_they_read_was_renumbered(catalog: Catalog) -> None:
    state = renumbered_beside_a_reader(catalog)
    assert state == seen_by_a_new_target(catalog)


def test_a_dataset_whose_number_went_to_a_task_that_makes_none_is_removed_at_the_target(catalog: Catalog) -> None:
    late, early = key("flows.orders.load", "n5"), key("flows.orders.load", "n1")
    made = Made(late, "o0")
    catalog.merge(lineage("e0", [task(late, outputs=[(made, raw("e0"))])], [dataset(made, raw("e0"))]))
    catalog.deliver()
    catalog.merge(lineage("e1", [task(early)]))  # takes the plain name, and writes nothing
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert deliverer.target.state == seen_by_a_new_target(catalog)


def test_numbers_that_fall_when_a_run_leaves_are_told_to_everybody(catalog: Catalog) -> None:
    """The task at n1 moves away: what was #2 takes its name, also in what another pipeline reads and writes."""
    early, late, use = key("flows.orders.load", "n1"), key("flows.orders.load", "n5"), key("flows.b.use")
    made, used = Made(late, "o1"), Made(use, "o0")

    def first(workflow: str, rule: NamingRule) -> Lineage:
        return lineage("e0", [task(early)], workflow=workflow, rule=rule)

    catalog.merge(first("flows.orders", NamingRule.MODULE))
    catalog.merge(lineage("e1", [task(late, outputs=[(made, raw("e1"))])], [dataset(made, raw("e1"))]))
    catalog.merge(
        lineage(
            "e2", [task(use, [(Foreign(raw("e1"), None), raw("e1"))], [(used, raw("e2"))])], [dataset(used, raw("e2"))],
            workflow="flows.b",
        )
    )  # fmt: skip
    catalog.deliver()
    catalog.merge(first("flows.orders.orders_wf", NamingRule.LAUNCH_PLAN))
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert deliverer.target.state == seen_by_a_new_target(catalog)


def test_a_dataset_hears_that_another_pipelines_task_does_not_write_it_any_more(catalog: Catalog) -> None:
    """A task that had the dataset from the cache proved an upstream of it; derived again, it does not."""
    load, again, place = Made(key("flows.a.load"), "o0"), key("flows.b.load"), Placed("s3", "in/x")

    def user(*outputs: tuple[Ref, str]) -> Lineage:
        return lineage(
            "e1", [task(again, [(place, "s3://in/x")], outputs)], [dataset(place, "s3://in/x", wrote=False)],
            workflow="flows.b",
        )  # fmt: skip

    writer = lineage(
        "e0", [task(load.key, outputs=[(load, raw("e0"))])], [dataset(load, raw("e0"))], workflow="flows.a"
    )
    catalog.merge(writer, user((Foreign(raw("e0"), Made(again, "o0")), raw("e0"))))
    catalog.deliver()
    catalog.merge(user())
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert deliverer.target.state == seen_by_a_new_target(catalog)


def test_the_newest_version_of_a_task_may_change_by_a_run_that_took_another_branch(catalog: Catalog) -> None:
    """An old run of v1 makes v1 the older version: the Task at n0, which it did not run, has v2's edges again."""
    place = {name: Placed("s3", f"in/{name}") for name in ("one", "two")}

    def run(name: str, start: int, version: str, path: str, source: str) -> Lineage:
        uri = f"s3://in/{source}"
        return lineage(
            name, [task(key("flows.orders.load", path, version), inputs=[(place[source], uri)])],
            [dataset(place[source], uri, wrote=False)], start=start,
        )  # fmt: skip

    catalog.merge(run("e0", 20, "v1", "n0", "one"), run("e1", 10, "v2", "n0", "two"))
    catalog.deliver()
    catalog.merge(run("e2", 5, "v1", "n1", "one"))
    catalog.deliver_all()
    (deliverer,) = catalog.deliverers
    assert isinstance(deliverer.target, RecordingTarget)
    assert deliverer.target.state == seen_by_a_new_target(catalog)


def test_what_was_read_is_kept_even_when_it_says_nothing_new(catalog: Catalog) -> None:
    run = lineage("e0", [task(key("flows.orders.load"))])
    catalog.merge(run, data='{"n0":[null,null]}')
    catalog.merge(run, data='{"n0":[[],[]]}')
    assert catalog.rows("SELECT data FROM run") == [('{"n0":[[],[]]}',)]


def test_orgs_and_instances_are_apart_and_their_order_is_fixed(catalog: Catalog) -> None:
    load = key("flows.orders.load")
    runs = [lineage("e0", [task(load)], org=org) for org in ("a", "b")]
    runs[1] = runs[1]._replace(tags=("team:b",))
    forward = document(catalog, *runs)
    assert len(forward["pipelines"]) == 2
    assert_same(document(catalog, *reversed(runs)), forward)


def test_a_module_of_a_pipeline_does_not_depend_on_who_came_last(catalog: Catalog) -> None:
    """A workflow flows.covid in module flows, and flows.covid's module, are one name: the better rule decides."""
    load = Made(key("flows.covid.load"), "o0")

    def run(name: str, rule: NamingRule, start: int) -> Lineage:
        return lineage(
            name, [task(load.key, outputs=[(load, raw(name))])], [dataset(load, raw(name))],
            workflow="flows.covid", rule=rule, start=start,
        )  # fmt: skip

    runs = run("e0", NamingRule.MODULE, 20), run("e1", NamingRule.LAUNCH_PLAN, 10)
    forward = document(catalog, *runs)
    assert_same(document(catalog, *reversed(runs)), forward)


def test_an_upstream_of_one_store_is_not_mistaken_for_the_same_path_in_another(catalog: Catalog) -> None:
    """v1 wrote s3 lake/x, v2 writes gs lake/x: what v2 reads is no upstream of the place that it writes no more."""
    s3, gs, source = Placed("s3", "lake/x"), Placed("gcs", "lake/x"), Placed("s3", "in/y")
    publish = "flows.orders.publish"
    catalog.merge(
        lineage("e0", [task(key(publish), outputs=[(s3, "s3://lake/x")])], [dataset(s3, "s3://lake/x")], start=1),
        lineage(
            "e1", [task(key(publish, version="v2"), [(source, "s3://in/y")], [(gs, "gs://lake/x")])],
            [dataset(gs, "gs://lake/x"), dataset(source, "s3://in/y", wrote=False)], start=9,
        ),
    )  # fmt: skip
    upstreams = {
        entity["platform"]: entity["upstreams"] for entity in catalog.export()["datasets"] if entity["name"] == "lake/x"
    }
    assert upstreams == {"s3": [], "gcs": ["in/y"]}


def test_a_merge_that_fails_leaves_no_trace_in_the_caches(catalog: Catalog) -> None:
    made = Made(key("flows.orders.load"), "o0")
    run = lineage("e0", [task(made.key, outputs=[(made, raw("e0"))])], [dataset(made, raw("e0"), "a")])
    expected = document(catalog, run)
    catalog.clear()
    row = catalog.row(run.execution)

    def fail(connection: Any) -> None:
        catalog.merger.merge(connection, [Merge(row, run)])
        catalog.merger.forget()  # what a caller must do whose transaction ends badly
        msg = "after the merge"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="after the merge"):
        catalog.inbox.writer.run(fail)
    assert catalog.export()["runs"] == []
    catalog.merge(run)
    assert_same(catalog.export(), expected)


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ({}, True),
        ({"tags": ("team:a",)}, True),
        ({"started_at": 11 * SECOND}, False),
        ({"workflow": "flows.other"}, False),
        ({"tasks": ()}, False),
        ({"datasets": ()}, False),
    ],
)
def test_covering_is_taking_nothing_away(change: dict[str, Any], covered: bool) -> None:
    made = Made(key("flows.orders.load"), "o0")
    run = lineage("e0", [task(made.key, outputs=[(made, raw("e0"))])], [dataset(made, raw("e0"), "a")])
    assert covers(run._replace(**change), run) is covered
    assert not covers(None, run)
    assert covers(run, run._replace(tasks=()))
