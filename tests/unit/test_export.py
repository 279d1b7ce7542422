"""The export: whole, narrowed, sorted, and always of the same form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flytelineage.catalog.export import NotFoundError, export_document
from flytelineage.errors import ConfigurationError
from flytelineage.inbox.sql import Inbox
from tests.support import corpus
from tests.support.catalog import Document, Engine, bodies_of, new_database
from tests.support.corpus import Publisher

KEYS = {
    "pipelines": "name project domain workflow naming_rule description owners tags url metadata tasks",
    "tasks": "pipeline name flyte_task version type inputs outputs upstream inferred_upstream metadata",
    "datasets": "name platform pipeline task variable format uris fields schema_source rows bytes upstreams",
    "runs": "execution pipeline phase started_at ended_at parent tasks",
}
TASK_RUN = "task node_id attempt index phase started_at ended_at cached source_execution inputs outputs"
COVID = "development.flytesnacks.flows.covid.covid_wf"
DIAMOND = "development.flytesnacks.flows.diamond.orders_wf"
CASES = ("covid", "covid-again", "diamond", "lake-publish", "lake-profile", "cross-execution", "caching")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(new_database(tmp_path_factory.mktemp("export"))) as opened:
        opened.receive(bodies_of(CASES))
        opened.derive(ended=True)
        yield opened


def ingested(folder: Path, *cases: str) -> Document:
    with Engine(new_database(folder)) as engine:
        engine.receive(bodies_of(cases))
        engine.derive(ended=True)
        return engine.export()


def test_an_empty_catalog_has_all_lists(tmp_path: Path) -> None:
    with Engine(new_database(tmp_path)) as engine:
        assert engine.export() == {"version": 1, "pipelines": [], "tasks": [], "datasets": [], "runs": []}


@pytest.mark.parametrize("case", corpus.cases())
def test_every_case_has_all_keys_and_is_json(tmp_path: Path, case: str) -> None:
    publishers: tuple[Publisher, ...] = ("external", "cloudevents")
    for publisher in publishers:
        with Engine(new_database(tmp_path)) as engine:
            engine.receive(bodies_of([case], publisher))
            engine.derive(ended=True)
            document = engine.export()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert set(document) == {"version", *KEYS}
        for kind, keys in KEYS.items():
            assert all(list(entity) == keys.split() for entity in document[kind])
        for run in document["runs"]:
            assert all(list(task) == TASK_RUN.split() for task in run["tasks"])
            for task in run["tasks"]:
                assert all(set(item) == {"variable", "dataset", "uri"} for item in task["inputs"])
                assert all(set(item) == {"variable", "dataset", "uri", "handed_on"} for item in task["outputs"])
        assert_whole(document)


def assert_whole(document: Document) -> None:
    """Every name that is referred to is there."""
    datasets = {dataset["name"] for dataset in document["datasets"]}
    tasks = {(task["pipeline"], task["name"]) for task in document["tasks"]}
    for task in document["tasks"]:
        assert {*task["inputs"], *task["outputs"]} <= datasets
        assert {(task["pipeline"], name) for name in (*task["upstream"], *task["inferred_upstream"])} <= tasks
    for run in document["runs"]:
        for task in run["tasks"]:
            assert (run["pipeline"], task["task"]) in tasks
            assert {item["dataset"] for item in (*task["inputs"], *task["outputs"])} <= datasets


def test_the_same_catalog_gives_the_same_text(engine: Engine) -> None:
    assert json.dumps(engine.export()) == json.dumps(engine.export())


def test_it_is_sorted(engine: Engine) -> None:
    document = engine.export()
    by = {
        "pipelines": ("name",),
        "tasks": ("pipeline", "name"),
        "datasets": ("platform", "name"),
        "runs": ("execution",),
    }
    for kind, keys in by.items():
        values = [tuple(entity[key] for key in keys) for entity in document[kind]]
        assert values == sorted(values)
        assert len(set(values)) == len(values)
    for entities, lists in (
        ("pipelines", ("tasks", "tags", "owners")),
        ("tasks", ("inputs", "outputs", "upstream", "inferred_upstream")),
        ("datasets", ("uris", "upstreams")),
    ):
        for entity in document[entities]:
            for name in lists:
                assert entity[name] == sorted(set(entity[name]))


def test_times_are_utc_and_in_order(engine: Engine) -> None:
    for run in engine.export()["runs"]:
        for moment in (run["started_at"], run["ended_at"]):
            assert moment.endswith("Z")
            assert "T" in moment
        assert run["started_at"] < run["ended_at"]


def test_a_reader_beside_the_daemon_sees_the_same(engine: Engine) -> None:
    reader = Inbox(url=f"sqlite:///{engine.file}")
    reader.open(readonly=True)
    try:
        assert export_document(reader) == engine.export()
    finally:
        reader.close()


# -- narrowing -------------------------------------------------------------------------------------------------------


def test_a_pipeline_that_touches_no_other_is_what_it_is_alone(engine: Engine, tmp_path: Path) -> None:
    assert engine.export(pipelines=[COVID]) == ingested(tmp_path, "covid", "covid-again")
    assert engine.export(pipelines=[DIAMOND]) == ingested(tmp_path, "diamond")


def test_two_pipelines_are_their_union(engine: Engine, tmp_path: Path) -> None:
    assert engine.export(pipelines=[DIAMOND, COVID, COVID]) == ingested(tmp_path, "covid", "covid-again", "diamond")


def test_all_pipelines_are_the_whole(engine: Engine) -> None:
    whole = engine.export()
    assert engine.export(pipelines=[pipeline["name"] for pipeline in whole["pipelines"]]) == whole


def test_all_executions_are_the_whole(engine: Engine) -> None:
    whole = engine.export()
    assert engine.export(*(run["execution"] for run in whole["runs"])) == whole


def test_an_execution_is_its_run_its_pipeline_and_its_tasks(engine: Engine) -> None:
    document = engine.export("flytesnacks/development/covid-1")
    assert [run["execution"] for run in document["runs"]] == ["flytesnacks/development/covid-1"]
    assert [pipeline["name"] for pipeline in document["pipelines"]] == [COVID]
    assert {task["pipeline"] for task in document["tasks"]} == {COVID}
    assert len(document["tasks"]) == 3
    assert_whole(document)


def test_an_execution_and_a_pipeline_are_what_either_names(engine: Engine) -> None:
    document = engine.export("flytesnacks/development/covid-1", pipelines=[DIAMOND])
    assert [run["execution"] for run in document["runs"]] == [
        "flytesnacks/development/covid-1",
        "flytesnacks/development/orders-1",
    ]
    both = engine.export("flytesnacks/development/covid-1", pipelines=[COVID])
    assert both == engine.export(pipelines=[COVID])


@pytest.mark.parametrize("case", ["cross-execution", "caching", "lake-publish", "lake-profile"])
def test_every_part_holds_what_it_refers_to(engine: Engine, case: str) -> None:
    for execution in corpus.Recording(case).succeeded():
        assert_whole(engine.export(execution))
    for pipeline in engine.export()["pipelines"]:
        assert_whole(engine.export(pipelines=[pipeline["name"]]))


def test_entities_are_the_same_in_a_part_and_in_the_whole(engine: Engine) -> None:
    whole = engine.export()
    for pipeline in whole["pipelines"]:
        part = engine.export(pipelines=[pipeline["name"]])
        for kind in KEYS:
            assert all(entity in whole[kind] for entity in part[kind])


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ({"pipelines": ["development.flytesnacks.flows.covid.covid_wfx"]}, COVID),
        ({"pipelines": [COVID, "diamond.orders_wf"]}, DIAMOND),
        ({"executions": ["flytesnacks/development/covid-11"]}, "flytesnacks/development/covid-1"),
        ({"executions": ["flytesnacks/development/covid-1", "covid-2"]}, "flytesnacks/development/covid-2"),
    ],
)
def test_unknown_names_suggest_the_nearest(engine: Engine, arguments: dict[str, Any], near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        export_document(engine.inbox, **arguments)
    assert isinstance(caught.value, ConfigurationError)
    assert repr(near) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_of_an_empty_catalog(tmp_path: Path) -> None:
    with Engine(new_database(tmp_path)) as engine, pytest.raises(NotFoundError, match="none"):
        engine.export("a/b/c")


def test_what_is_unknown_but_like_nothing_does_not_say_that_there_is_nothing(engine: Engine) -> None:
    with pytest.raises(NotFoundError) as caught:
        engine.export(pipelines=["§§§§"])
    assert "holds none" not in str(caught.value)


def test_two_orgs_with_one_pipeline_name_are_both_found(tmp_path: Path) -> None:
    def in_org(org: str) -> list[str]:
        return [_with_org(body, org) for body in bodies_of(["covid"])]

    with Engine(new_database(tmp_path)) as engine:
        engine.receive([*in_org("x"), *in_org("y")])
        engine.derive(ended=True)
        whole = engine.export()
        assert len(whole["runs"]) == len(whole["pipelines"]) == 2
        part = engine.export(pipelines=[COVID])
        assert len(part["runs"]) == len(part["pipelines"]) == 2


def _with_org(body: str, org: str) -> str:
    from flytelineage.events import decode

    event = decode(body)
    text = event.body.decode().replace('"project":"flytesnacks"', f'"org":"{org}","project":"flytesnacks"')
    kind = {4: "Workflow", 5: "Node", 6: "Task"}[int(event.encoding)]
    return json.dumps({"specversion": "1.0", "type": f"com.flyte.resource.cloudevents.{kind}Execution", "data": text})


def test_orgs_that_came_in_another_order_give_the_same(tmp_path: Path) -> None:
    documents = []
    for orgs in ("xy", "yx"):
        with Engine(new_database(tmp_path)) as engine:
            for org in orgs:
                engine.receive([_with_org(body, org) for body in bodies_of(["covid" if org == "x" else "covid-again"])])
                engine.derive(ended=True)
            documents.append(engine.export())
    assert documents[0] == documents[1]
