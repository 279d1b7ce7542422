"""Names and places: the identity rules of DESIGN.md 4 as pure functions of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.lineage.naming import (
    RunScope,
    module_of,
    name_workflow,
    natural_key,
    normalise_uri,
    numbered,
    placed,
    run_scope,
    short_task,
    task_name,
)
from flytelineage.lineage.types import Placed
from flytelineage.model import NamingRule
from tests.support.events import raw_uri, unhurried

HEX = "0123456789abcdef0123456789abcdef"


# -- normalise_uri ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://lake/gold/orders", "s3://lake/gold/orders"),
        ("s3a://lake/gold/orders", "s3://lake/gold/orders"),
        ("s3n://lake/gold/orders", "s3://lake/gold/orders"),
        ("S3://lake/Gold", "s3://lake/Gold"),
        ("s3://lake/gold/orders/", "s3://lake/gold/orders"),
        ("s3://lake/gold/orders///", "s3://lake/gold/orders"),
        ("s3://lake//gold///orders", "s3://lake/gold/orders"),
        ("s3:///lake/gold", "s3://lake/gold"),
        ("s3://lake/a%20b/c#d?e=f", "s3://lake/a%20b/c#d?e=f"),
        ("s3://lake/a b/ü", "s3://lake/a b/ü"),
        ("gs://lake/x/", "gs://lake/x"),
        ("gcs://lake/x", "gs://lake/x"),
        ("abfs://box@account.dfs.core.windows.net/x/", "abfs://box@account.dfs.core.windows.net/x"),
        ("bq://project:set.table", "bq://project:set.table"),
        ("bq://project.set.table/", "bq://project.set.table"),
        ("file:///tmp/x/", "file:///tmp/x"),
        ("file:/tmp/x", "file:///tmp/x"),
        ("/tmp//x/", "/tmp/x"),
        ("relative/x", "relative/x"),
        ("", ""),
    ],
)
def test_one_spelling_for_one_place(uri: str, expected: str) -> None:
    assert normalise_uri(uri) == expected


@unhurried
@given(st.one_of(st.text(), st.from_regex(r"[sS]3[an]?:/{0,4}[a-z/=.:-]{0,20}", fullmatch=True)))
def test_normalising_twice_changes_nothing(uri: str) -> None:
    assert normalise_uri(normalise_uri(uri)) == normalise_uri(uri)


# -- placed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "platform", "name"),
    [
        ("s3://lake/gold/orders", "s3", "lake/gold/orders"),
        ("gs://lake/gold/orders", "gcs", "lake/gold/orders"),
        ("abfs://box@account.dfs.core.windows.net/x", "abs", "box@account.dfs.core.windows.net/x"),
        ("abfss://box@account.dfs.core.windows.net/x", "abs", "box@account.dfs.core.windows.net/x"),
        ("file:///tmp/x", "file", "/tmp/x"),
        ("/tmp/x", "file", "/tmp/x"),
        ("bq://project:set.table", "bigquery", "project:set.table"),
        ("bq://project.set.table", "bigquery", "project.set.table"),
        ("snowflake://user:account/wh/db/schema/table", "snowflake", "user:account/wh/db/schema/table"),
        ("s3://lake/orders/day=2026-01-01", "s3", "lake/orders"),
        ("s3://lake/orders/country=fr/day=2026-01-01/part-0.parquet", "s3", "lake/orders/part-0.parquet"),
        ("s3://lake/orders/day=", "s3", "lake/orders"),
        ("s3://lake/orders/day=a=b", "s3", "lake/orders"),
        ("s3://lake/orders/=x", "s3", "lake/orders/=x"),
        ("s3://lake", "s3", "lake"),
    ],
)
def test_a_place_is_named_by_its_path_without_partition_folders(uri: str, platform: str, name: str) -> None:
    assert placed(uri) == Placed(platform, name)


def test_both_spellings_of_a_local_path_are_one_place() -> None:
    assert (
        placed(normalise_uri("file:///tmp/x"))
        == placed(normalise_uri("/tmp/x"))
        == placed(normalise_uri("file:/tmp/x"))
    )


def test_two_places_of_one_store_keep_two_names() -> None:
    assert placed("s3://lake/a") != placed("gs://lake/a")
    assert placed("s3://lake/a") != placed("s3://lake/b")


@unhurried
@given(st.text())
def test_every_place_has_a_platform_and_a_name_that_is_not_empty(uri: str) -> None:
    normal = normalise_uri(uri)
    if normal:
        place = placed(normal)
        assert place.platform
        assert place.name


# -- run_scope -------------------------------------------------------------------------------------------------------


def scope(
    uri: str, nodes: Sequence[str] = ("n0", "n1"), children: Sequence[str] = (), arrays: Sequence[str] = ()
) -> RunScope | None:
    return run_scope(uri, "run-1", dict.fromkeys(nodes), arrays, children)


IN_CLEAR = RunScope("n0", named=True, ours=True)
UNKNOWN_OURS = RunScope("", named=True, ours=True)
FOREIGN = RunScope("", named=True, ours=False)
HASHED = RunScope("", named=False, ours=False)
USER_PATH = RunScope("", named=False, ours=True)


@pytest.mark.parametrize(
    "tail", ["", "/00000", "/model.bin", "/report/index.html"], ids=["itself", "parquet", "file", "in a directory"]
)
def test_a_raw_output_names_its_writer_in_clear(tail: str) -> None:
    assert scope(raw_uri("run-1-n0-0") + tail) == IN_CLEAR
    assert scope(raw_uri("run-1-n0-3") + tail) == IN_CLEAR


@pytest.mark.parametrize("prefix", ["s3://my-s3-bucket/", "s3://b/a/b/c/", "gs://b/", "abfs://b@a/x/"])
def test_the_raw_prefix_may_be_anything(prefix: str) -> None:
    assert scope(f"{prefix}ab/run-1-n0-0/{HEX}") == IN_CLEAR


@pytest.mark.parametrize(
    ("segment", "nodes", "writer"),
    [
        ("run-1-n0-0", ["n0", "n0-0-n0"], "n0"),
        ("run-1-n0-0-n1-0", ["n0"], "n0"),
        ("run-1-n0-0-n1-0", ["n0", "n0-0-n1"], "n0-0-n1"),
        ("run-1-n0-0-n1-2", ["n0", "n0-0-n1"], "n0-0-n1"),
        ("run-1-n0-1-n12-0", ["n0"], "n0"),
        ("run-1-n2-0-n1-0-n3-0", ["n2", "n2-0-n1"], "n2-0-n1"),
        ("run-1-n1-0-n1-n0-0", ["n1", "n1-0-n1-n0"], "n1-0-n1-n0"),
        ("run-1-f4qz5eva-0", ["f4qz5eva"], "f4qz5eva"),
        ("run-1-f4qz5eva-0-n2-0", ["f4qz5eva"], "f4qz5eva"),
        ("run-1-my-own-name-0", ["my-own-name"], "my-own-name"),
        ("run-1-my-own-name-0", ["my-own-name", "name"], "my-own-name"),
        ("run-1-start-node-0", ["start-node"], "start-node"),
        ("run-1-flowscovidfetch-0", ["flowscovidfetch"], "flowscovidfetch"),
    ],
)
def test_the_longest_known_node_wrote_it(segment: str, nodes: Sequence[str], writer: str) -> None:
    assert scope(raw_uri(segment), nodes, arrays=nodes) == RunScope(writer, named=True, ours=True)


def test_only_a_map_has_indices() -> None:
    """``n0-0-n1`` may be a node of its own, below a sub-workflow ``n0``, that no event told of."""
    assert scope(raw_uri("run-1-n0-0-n1-0"), ["n0"]) == UNKNOWN_OURS


@pytest.mark.parametrize("segment", ["run-1-n7-0", "run-1-n0", "run-1-n0-0-n1", "run-1-n7-0-n1-0"])
def test_a_node_that_no_event_told_of_is_ours_and_unknown(segment: str) -> None:
    assert scope(raw_uri(segment)) == UNKNOWN_OURS


@pytest.mark.parametrize(
    "segment", ["run-2-n0-0", "abc-n0-0", "f5e7cd313842ee1d3000-n0-0", "other-run-1-n0-0", "xrun-1-n0-0", "run-11-n0-0"]
)
def test_another_executions_name_is_foreign(segment: str) -> None:
    assert scope(raw_uri(segment)) == FOREIGN


def test_a_child_execution_whose_name_begins_with_ours_is_foreign() -> None:
    """launch-1-n0-0 is node n0's child in execution launch-1; its own n0 writes below launch-1-n0-0-n0-0."""
    child = raw_uri("run-1-n0-0-n0-0")
    assert scope(child, children=["run-1-n0-0"]) == FOREIGN
    assert scope(child, arrays=["n0"]) == IN_CLEAR  # index 0 of a map, for all that is known
    assert scope(raw_uri("run-1-n0-0"), children=["run-1-n0-0"]) == IN_CLEAR


@pytest.mark.parametrize("segment", ["f4qz5eva", "fhd73hsk4lhsg", "0" * 50])
def test_a_segment_that_was_hashed_for_its_length_names_nobody(segment: str) -> None:
    assert scope(raw_uri(segment)) == HASHED


@pytest.mark.parametrize("tail", ["", "/00000"])
def test_a_legacy_map_has_index_and_attempt_before_the_hex(tail: str) -> None:
    assert scope(f"s3://b/data/ab/run-1-n0-0/2/0/{HEX}{tail}") == IN_CLEAR
    assert scope(f"s3://b/data/ab/fhd73hsk4lhsg/12/1/{HEX}{tail}") == HASHED


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/out/run-1/table",
        "s3://b/run-1",
        "s3://b/out/run-1-n0/table",
        "s3://b/out/run-1-n0-0",
        "s3://b/out/run-1-n0-anything",
    ],
)
def test_a_path_that_holds_the_executions_name_lives_as_long_as_the_run(uri: str) -> None:
    assert scope(uri) == USER_PATH


@pytest.mark.parametrize(
    "uri",
    [
        "s3://lake/gold/orders",
        "s3://landing-zone/shop/orders.csv",
        "s3://run-1/gold/orders",  # a bucket is no segment of the path
        "s3://lake/run-10/orders",
        "s3://lake/run-1-daily/orders",  # begins with the name, a dash, and no node id
        "s3://lake/xrun-1/orders",
        f"s3://lake/abc/run-2-n0-0/{HEX}",  # the shard has two characters
        f"s3://lake/AB/run-2-n0-0/{HEX}",
        f"s3://lake/ab/run-2-n0-0/{HEX[:-1]}",
        f"s3://lake/ab/run-2-n0-0/{HEX}0",
        f"s3://lake/ab/run-2-n0-0/{HEX.upper()}",
        f"s3://lake/ab/run-2-n0-0/x/{HEX}",
        f"s3://lake/ab/run-2-n0-0/1/{HEX}",
        "bq://project:set.table",
        "/tmp/orders",
        "",
    ],
)
def test_all_else_outlives_its_run(uri: str) -> None:
    assert scope(uri) is None


@pytest.mark.parametrize("nodes", [{}, {"n0": None}])
def test_a_long_hostile_segment_is_read_in_bounded_time(nodes: Mapping[str, object]) -> None:
    for segment in ("run-1" + "-n1-1" * 800, "run-1-" + "1" * 4_000, "run-1-" + "-" * 4_000, "run-1" + "-1" * 2_000):
        run_scope(f"s3://b/data/ab/{segment}/{HEX}", "run-1", nodes)
        run_scope(f"s3://b/{segment}", "run-1", nodes)


# -- names -----------------------------------------------------------------------------------------------------------


def test_n9_stands_before_n10() -> None:
    paths = ["n10", "n9", "n9/n10", "n9/n2", "n0", "end-node", "n1-n0", "n1"]
    assert sorted(paths, key=natural_key) == ["end-node", "n0", "n1", "n1-n0", "n9", "n9/n2", "n9/n10", "n10"]


@unhurried
@given(st.lists(st.text("n019²٣/-", max_size=30)))
def test_natural_order_is_total_and_tells_all_paths_apart(paths: list[str]) -> None:
    assert len({natural_key(path) for path in paths}) == len(set(paths))
    assert sorted(paths, key=natural_key) == sorted(reversed(paths), key=natural_key)


@pytest.mark.parametrize(
    ("full", "name"),
    [
        (f"flows.nested.map_extract_{HEX}-arraynode", "flows.nested.map_extract"),
        (f"flows.legacy.map_part_{HEX}", "flows.legacy.map_part"),
        ("flows.covid.fetch", "flows.covid.fetch"),
        ("flows.covid.fetch_2", "flows.covid.fetch_2"),
        (f"flows.covid.fetch_{HEX[:-1]}", f"flows.covid.fetch_{HEX[:-1]}"),
        (f"flows.covid.fetch_{HEX}_more", f"flows.covid.fetch_{HEX}_more"),
        ("flows.nested.per-arraynode", "flows.nested.per-arraynode"),
        ("fetch", "fetch"),
    ],
)
def test_a_tasks_name_is_without_what_flytekit_adds_for_a_map(full: str, name: str) -> None:
    assert task_name(full) == name


def test_a_module_is_what_stands_before_the_last_dot() -> None:
    assert module_of("flows.covid.fetch") == "flows.covid"
    assert module_of("fetch") == ""


def test_the_task_in_a_dataset_name_is_without_the_pipelines_module() -> None:
    assert short_task("flows.covid.fetch", "flows.covid") == "fetch"
    assert short_task("flows.covid2.fetch", "flows.covid") == "flows.covid2.fetch"
    assert short_task("flows.covid.sub.fetch", "flows.covid") == "sub.fetch"
    assert short_task("flows.covid", "flows.covid") == "flows.covid"
    assert short_task("fetch", "") == "fetch"


def test_the_second_node_that_runs_a_task_has_number_two() -> None:
    assert [numbered("double", position) for position in range(3)] == ["double", "double#2", "double#3"]


TASKS = [("n0", "flows.covid.fetch"), ("n1", "flows.covid.clean")]


def test_the_default_launch_plan_has_the_workflows_name() -> None:
    assert name_workflow(["flows.covid.covid_wf"], TASKS) == ("flows.covid.covid_wf", NamingRule.LAUNCH_PLAN)


def test_a_launch_plan_made_by_hand_does_not_name_the_workflow() -> None:
    """covid.nightly of the recordings: no task has the module ``covid``."""
    assert name_workflow(["covid.nightly"], TASKS) == ("flows.covid", NamingRule.MODULE)
    assert name_workflow(["nightly"], TASKS) == ("flows.covid", NamingRule.MODULE)


def test_any_tasks_module_will_do() -> None:
    tasks = [("n0", "lib.common.load"), ("n1", "flows.covid.clean")]
    assert name_workflow(["flows.covid.covid_wf"], tasks) == ("flows.covid.covid_wf", NamingRule.LAUNCH_PLAN)


def test_without_launch_plan_the_module_of_the_first_node_names_it() -> None:
    assert name_workflow([], TASKS) == ("flows.covid", NamingRule.MODULE)
    tasks = [("n10", "b.x"), ("n9", "a.y"), ("n9/n0", "c.z")]
    assert name_workflow([], tasks) == ("a", NamingRule.MODULE)


def test_a_task_run_by_itself_is_named_by_its_module() -> None:
    tasks = [("flowscovidfetch", "flows.covid.fetch")]
    assert name_workflow([], tasks) == ("flows.covid", NamingRule.MODULE)


def test_a_map_as_first_node_gives_its_module() -> None:
    tasks = [("n0", f"flows.nested.map_extract_{HEX}-arraynode")]
    assert name_workflow([], tasks) == ("flows.nested", NamingRule.MODULE)


def test_a_task_without_a_module_gives_its_own_name() -> None:
    assert name_workflow([], [("n0", "fetch")]) == ("fetch", NamingRule.MODULE)


def test_where_no_task_is_known_nothing_names_the_workflow() -> None:
    assert name_workflow([], []) is None


def test_a_launch_plan_made_by_hand_is_no_workflow_where_tasks_have_no_module() -> None:
    """DESIGN.md 4: "when its module is the module of one of the tasks": no module is not a shared module."""
    assert name_workflow(["nightly"], [("n0", "fetch")]) == ("fetch", NamingRule.MODULE)


@unhurried
@given(st.permutations(TASKS), st.permutations(["flows.covid.a", "flows.covid.b", "x"]))
def test_order_does_not_name(tasks: list[tuple[str, str]], launch_plans: list[str]) -> None:
    assert name_workflow(launch_plans, tasks) == name_workflow(["flows.covid.a", "flows.covid.b", "x"], TASKS)


def test_a_better_rule_has_the_greater_rank() -> None:
    assert NamingRule.MODULE.rank < NamingRule.LAUNCH_PLAN.rank < NamingRule.WORKFLOW.rank
