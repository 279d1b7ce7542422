"""The catalog as a person sees it in the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flytelineage.catalog.export import NotFoundError
from flytelineage.catalog.show import render
from flytelineage.inbox.sql import Inbox
from tests.support import corpus
from tests.support.catalog import Engine, altered, bodies, bodies_of, new_database
from tests.support.corpus import Publisher


def text(inbox: Inbox, name: str | None = None, width: int = 200, *, colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None).print(
        render(inbox, name)
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(new_database(tmp_path_factory.mktemp("show"))) as opened:
        opened.receive(bodies_of(["covid", "covid-again", "diamond", "lake-publish", "lake-profile"]))
        opened.derive(ended=True)
        yield opened


@pytest.mark.parametrize("publisher", ["external", "cloudevents"])
@pytest.mark.parametrize("case", corpus.cases())
def test_every_case_is_drawn_whole(tmp_path: Path, case: str, publisher: Publisher) -> None:
    with Engine(new_database(tmp_path)) as engine:
        engine.receive(bodies(case, publisher))
        engine.derive(ended=True)
        document = engine.export()
        overview = text(engine.inbox, width=1000)
        for pipeline in document["pipelines"]:
            assert pipeline["name"] in overview
            shown = text(engine.inbox, pipeline["name"], width=1000)
            assert all(task in shown for task in pipeline["tasks"])
            for run in [r for r in document["runs"] if r["pipeline"] == pipeline["name"]][:10]:
                assert run["execution"] in shown
        for dataset in document["datasets"]:
            assert dataset["name"] in text(engine.inbox, dataset["name"], width=1000)
        assert text(engine.inbox, width=20)


def test_an_empty_catalog_says_so(tmp_path: Path) -> None:
    with Engine(new_database(tmp_path)) as engine:
        assert "empty" in text(engine.inbox)


def test_a_pipeline_in_the_order_of_its_data(engine: Engine) -> None:
    shown = text(engine.inbox, "development.flytesnacks.flows.covid.covid_wf")
    places = [shown.index(f"flows.covid.{task}") for task in ("fetch", "clean", "summarise")]
    assert places == sorted(places)
    assert "writes fetch.o0" in shown
    assert "reads  fetch.o0" in shown
    assert shown.count("SUCCEEDED") == 2


def test_a_dataset_with_its_columns_writers_and_readers(engine: Engine) -> None:
    shown = text(engine.inbox, "development.flytesnacks.flows.covid.covid_wf.fetch.o0")
    assert "written by flows.covid.fetch" in shown
    assert "read by    flows.covid.clean" in shown
    assert "timestamp[ns, tz=UTC]" in shown or "timestamp[us, tz=UTC]" in shown
    assert "goes into" in shown
    assert "clean.o0" in shown


def test_an_end_of_a_name_is_enough_when_it_fits_one(engine: Engine) -> None:
    assert "written by" in text(engine.inbox, "fetch.o0")
    assert "run flytesnacks/development/orders-1" in text(engine.inbox, "diamond.orders_wf")


def test_an_end_that_fits_several_names_them(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="write one of"):
        render(engine.inbox, "o0")


@pytest.mark.parametrize(("name", "near"), [("covid.covid_w", "covid.covid_wf"), ("fetch", "fetch.o0")])
def test_unknown_names_suggest_the_nearest(engine: Engine, name: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        render(engine.inbox, name)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_like_it_points_to_the_list(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="lists what there is"):
        render(engine.inbox, "§§§§§§")


EVIL = "flows.[bold red]x[/] \x1b[31m\x07\u202e\u2028[link=http://evil]y"


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Engine]:
    """Every name that an event may bring holds markup and control characters."""

    def change(data: dict[str, object]) -> None:
        raw = data["rawEvent"]
        assert isinstance(raw, dict)
        target = raw.get("targetEntity") or raw.get("taskId")
        if isinstance(target, dict):
            target["name"] = target["version"] = EVIL
        data["labels"] = {"[red]": "\x1b]0;owned\x07"}
        raw.pop("outputUri", None)

    with Engine(new_database(tmp_path)) as engine:
        engine.receive([altered(body, change) for body in bodies("covid")])
        engine.derive(ended=True)
        yield engine


def test_names_are_neither_markup_nor_control_sequences(evil: Engine) -> None:
    (pipeline,) = evil.export()["pipelines"]
    assert "[bold red]" in pipeline["tasks"][0]
    for shown in (text(evil.inbox, width=1000), text(evil.inbox, pipeline["name"], width=1000)):
        assert not set(shown) & set("\x1b\x07\u202e\u2028")
        assert "[bold red]x[/]" in shown
        assert "\N{REPLACEMENT CHARACTER}" in shown


def test_only_our_own_colours_reach_the_terminal(evil: Engine) -> None:
    shown = text(evil.inbox, width=1000, colour=True)
    assert "\x1b[31m\x07" not in shown
    assert "\x07" not in shown
    assert "]0;" not in shown.replace("\N{REPLACEMENT CHARACTER}]0;", "")
    assert "]8;" not in shown


def test_a_circle_ends(tmp_path: Path) -> None:
    """A place that a pipeline reads and writes, by way of another."""
    from flytelineage.lineage.types import Placed
    from tests.unit.test_merge import Catalog, dataset, key, lineage, task

    one, two = Placed("s3", "lake/one"), Placed("s3", "lake/two")
    with Catalog(new_database(tmp_path)) as catalog:
        assert isinstance(catalog, Catalog)
        catalog.merge(
            lineage(
                "e0",
                [
                    task(key("flows.a", "n0"), [(one, "s3://lake/one")], [(two, "s3://lake/two")]),
                    task(key("flows.b", "n1"), [(two, "s3://lake/two")], [(one, "s3://lake/one")]),
                ],
                [dataset(one, "s3://lake/one"), dataset(two, "s3://lake/two")],
            )
        )
        assert "(above)" in text(catalog.inbox, "lake/one")
        assert text(catalog.inbox)
