"""The recorded corpus through real HTTP: published to SNS, read from SQS, objects in S3; compared whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flytelineage.errors import ExitCode
from tests.support import corpus
from tests.support.aws import AwsEmulator
from tests.support.corpus import Publisher, Recording, recorded
from tests.support.daemon import export, running_daemon
from tests.support.expected import Document, differences, load, module_form

EXTERNAL: Publisher = "external"
CLOUDEVENTS: Publisher = "cloudevents"

CASES = [
    "covid",
    "covid-again",
    "diamond",
    "caching",
    "retry",
    "recover",
    "relaunch",
    "scheduled",
    "single-task",
    "versions",
    "together",
    "lake-publish",
    "failing",
    "parallel-failing",
    "abort",
    "timeout",
]
"""Cases whose lineage is written down whole."""

LEAF_TASKS = {
    "branch": {"flows.nested.extract", "flows.nested.double"},
    "cross-execution": {"flows.trouble.make", "flows.trouble.consume"},
    "dynamic": {"flows.nested.extract", "flows.nested.double", "flows.nested.concat", "flows.nested.rows"},
    "gates": {"flows.gates.draft", "flows.gates.release", "flows.gates.notify"},
    "lake-bundle": {
        "flows.lake.read_landing",
        "flows.lake.publish",
        "flows.lake.vocabulary",
        "flows.lake.bundle",
        "flows.lake.unpack",
    },
    "lake-profile": {"flows.lake.profile"},
    "launch-plan": {"flows.nested.extract", "flows.nested.double", "flows.nested.rows"},
    "legacy-map": {"flows.legacy.together"},
    "map": {"flows.nested.concat"},
    "partial-map": {"flows.trouble.survivors"},
    "sub-workflow": {"flows.nested.extract", "flows.nested.double", "flows.nested.rows"},
    "cloudevents-v1/dynamic": {"flows.nested.extract", "flows.nested.double", "flows.nested.concat"},
    "cloudevents-v1/launch-plan": {"flows.nested.extract", "flows.nested.double", "flows.nested.rows"},
    "cloudevents-v1/map": {"flows.nested.concat"},
    "event-version-0/caching": {"flows.caching.expensive", "flows.caching.use"},
    "event-version-0/covid": {"flows.covid.fetch", "flows.covid.clean", "flows.covid.summarise"},
    "inline/dynamic": {"flows.nested.extract", "flows.nested.double", "flows.nested.concat", "flows.nested.rows"},
    "inline/launch-plan": {"flows.nested.extract", "flows.nested.double", "flows.nested.rows"},
    "inline/map": {"flows.nested.concat"},
    "inline/partial-map": {"flows.trouble.survivors"},
}
"""Of the other cases, by reading the flows: the tasks that are ordinary task nodes, wherever they are nested."""

WHOLE = {*CASES, "cloudevents-v1/covid", "cloudevents-v1/caching", "cloudevents-v1/failing", "inline/covid"}
WHOLE |= {"inline/diamond"}


def ingest(
    aws: AwsEmulator,
    folder: Path,
    recordings: Sequence[Recording],
    publishers: Sequence[Publisher],
    *,
    raw: bool = False,
) -> Document:
    """Publish recordings, let the daemon drain the queue, and return the export of what it made of them."""
    queue = aws.queue(raw=raw)
    database = folder / "flytelineage.db"
    published = aws.record(queue, recordings, publishers)
    with running_daemon(aws, queue, database) as daemon:
        daemon.wait_until_idle()
        summary = daemon.summary()
        assert daemon.stop() == ExitCode.OK
    assert summary.dead_letters == 0
    assert summary.messages >= published
    return export(database)


def assert_same(actual: Document, expected: Document) -> None:
    different = differences(actual, expected)
    assert not different, f"the export differs (- missing, + too much):\n{different}"


@pytest.mark.parametrize("case", CASES)
def test_external_events_give_the_lineage_that_the_source_says(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    assert_same(ingest(aws, tmp_path, recorded([case]), [EXTERNAL]), module_form(load(case)))


@pytest.mark.parametrize("case", CASES)
def test_cloudevents_v2_give_the_lineage_that_the_source_says(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    assert_same(ingest(aws, tmp_path, recorded([case]), [CLOUDEVENTS]), load(case))


@pytest.mark.parametrize("case", CASES)
def test_raw_delivery_gives_the_same(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    assert_same(ingest(aws, tmp_path, recorded([case]), [EXTERNAL], raw=True), module_form(load(case)))


@pytest.mark.parametrize("case", ["covid", "diamond", "caching", "together"])
def test_raw_cloudevents_give_the_same(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    assert_same(ingest(aws, tmp_path, recorded([case]), [CLOUDEVENTS], raw=True), load(case))


@pytest.mark.parametrize("case", CASES)
def test_both_publishers_on_one_queue_give_what_v2_gives(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    assert_same(ingest(aws, tmp_path, recorded([case]), [EXTERNAL, CLOUDEVENTS]), load(case))


@pytest.mark.parametrize("publisher", [EXTERNAL, CLOUDEVENTS])
@pytest.mark.parametrize("case", ["covid", "caching", "failing"])
def test_cloudevents_v1_and_the_events_beside_them_say_the_same(
    aws: AwsEmulator, tmp_path: Path, case: str, publisher: Publisher
) -> None:
    case = f"cloudevents-v1/{case}"
    assert_same(ingest(aws, tmp_path, recorded([case]), [publisher]), module_form(load(case)))


@pytest.mark.parametrize("case", ["covid", "diamond"])
def test_inline_data_gives_the_same(aws: AwsEmulator, tmp_path: Path, case: str) -> None:
    case = f"inline/{case}"
    (tmp_path / "external").mkdir()
    (tmp_path / "cloudevents").mkdir()
    assert_same(ingest(aws, tmp_path / "external", recorded([case]), [EXTERNAL]), module_form(load(case)))
    assert_same(ingest(aws, tmp_path / "cloudevents", recorded([case]), [CLOUDEVENTS]), load(case))


def test_every_case_of_the_corpus_is_tested() -> None:
    assert set(corpus.cases()) == WHOLE | set(LEAF_TASKS)
    assert not WHOLE & set(LEAF_TASKS)


@pytest.mark.parametrize("publisher", [EXTERNAL, CLOUDEVENTS])
@pytest.mark.parametrize("case", sorted(LEAF_TASKS))
def test_other_node_kinds_break_nothing_and_their_leaf_tasks_are_there(
    aws: AwsEmulator, tmp_path: Path, case: str, publisher: Publisher
) -> None:
    document = ingest(aws, tmp_path, recorded([case]), [publisher])
    assert [run["execution"] for run in document["runs"]] == Recording(case).succeeded()
    assert LEAF_TASKS[case] <= {task["flyte_task"] for task in document["tasks"]}
    assert LEAF_TASKS[case] <= {task["task"].partition("#")[0] for run in document["runs"] for task in run["tasks"]}
    assert_consistent(document)


@pytest.mark.slow
@pytest.mark.parametrize("publisher", [EXTERNAL, CLOUDEVENTS])
def test_all_cases_in_one_queue_give_their_union(aws: AwsEmulator, tmp_path: Path, publisher: Publisher) -> None:
    recordings = recorded(corpus.cases())
    queue = aws.queue()
    database = tmp_path / "flytelineage.db"
    with running_daemon(aws, queue, database) as daemon:
        for recording in recordings:
            aws.record(queue, [recording], [publisher])
        daemon.wait_until_idle(120)
        summary = daemon.summary()
        assert daemon.stop() == ExitCode.OK
    assert summary.dead_letters == 0
    document = export(database)
    assert_consistent(document)
    assert [run["execution"] for run in document["runs"]] == sorted(
        {name for recording in recordings for name in recording.succeeded()}
    )
    # A module shared by several workflows may number its tasks anew when others join; named workflows stand alone.
    runs = {run["execution"]: run for run in document["runs"]}
    named = {pipeline["name"] for pipeline in document["pipelines"] if pipeline["naming_rule"] == "launch_plan"}
    assert bool(named) == (publisher == CLOUDEVENTS)
    for case in CASES:
        for run in load(case)["runs"]:
            if run["pipeline"] in named:
                assert runs[run["execution"]] == run


def assert_consistent(document: Document) -> None:
    """What holds for every document, whatever was run: names that are referred to exist, and are no loops."""
    pipelines = {pipeline["name"]: pipeline for pipeline in document["pipelines"]}
    tasks = {(task["pipeline"], task["name"]) for task in document["tasks"]}
    datasets = {dataset["name"] for dataset in document["datasets"]}
    assert len(pipelines) == len(document["pipelines"])
    assert len(tasks) == len(document["tasks"])
    assert tasks == {(pipeline["name"], task) for pipeline in document["pipelines"] for task in pipeline["tasks"]}
    for task in document["tasks"]:
        assert {*task["inputs"], *task["outputs"]} <= datasets
        assert {(task["pipeline"], name) for name in task["upstream"]} <= tasks
        assert task["name"] not in task["upstream"]
    for dataset in document["datasets"]:
        assert set(dataset["upstreams"]) <= datasets
        assert dataset["name"] not in dataset["upstreams"]
    for run in document["runs"]:
        assert run["phase"] == "SUCCEEDED"
        assert run["started_at"] <= run["ended_at"]
        for part in run["tasks"]:
            assert (run["pipeline"], part["task"]) in tasks
            assert {edge["dataset"] for edge in part["inputs"] + part["outputs"]} <= datasets
