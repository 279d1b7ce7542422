"""Ids that every target will keep for ever."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.model import ExecutionId, Field, NamingRule, Run, run_id
from tests.support.events import unhurried

EXECUTION = ExecutionId("", "", "flytesnacks", "development", "covid-1")


def test_run_ids_never_change() -> None:
    """Written down: another value here renames every run in every target."""
    assert run_id(EXECUTION) == uuid.UUID("508f2b0f-19c1-5936-a44a-bf812407bdf7")
    assert run_id(EXECUTION, "n0", 1, 2) == uuid.UUID("fa73e55e-26c6-5705-8db0-501a912c64bc")


def test_a_run_has_its_executions_id() -> None:
    assert Run(EXECUTION, "p", "SUCCEEDED", None, None).id == run_id(EXECUTION)


def test_every_part_makes_another_id() -> None:
    ids = {
        run_id(EXECUTION),
        *(run_id(EXECUTION._replace(**{part: "x"})) for part in EXECUTION._fields),
        run_id(EXECUTION, "n0"),
        run_id(EXECUTION, "n0", 0),
        run_id(EXECUTION, "n0", 1),
        run_id(EXECUTION, "n0", 0, 0),
        run_id(EXECUTION, "n0", None, 0),
        run_id(EXECUTION, "n0/n1"),
    }
    assert len(ids) == 6 + 6


def test_parts_do_not_run_into_each_other() -> None:
    assert run_id(ExecutionId("a", "b", "c", "d", "e")) != run_id(ExecutionId("a", "", "bc", "d", "e"))
    assert run_id(ExecutionId("", "", "ab", "c", "d")) != run_id(ExecutionId("", "", "a", "bc", "d"))


part = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=8)


@unhurried
@given(part, part, part, part, part)
def test_a_key_is_undone(instance: str, org: str, project: str, domain: str, name: str) -> None:
    execution = ExecutionId(instance, org, project, domain, name)
    assert ExecutionId.from_key(execution.key) == execution


def test_an_execution_is_shown_as_flyte_spells_it() -> None:
    assert str(EXECUTION._replace(instance="i", org="o")) == "flytesnacks/development/covid-1"


def test_the_model_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Field("a", "int64", nullable=True).name = "b"  # type: ignore[misc]


def test_naming_rules_are_ranked_weakest_first() -> None:
    assert [rule.rank for rule in NamingRule] == [0, 1, 2]
