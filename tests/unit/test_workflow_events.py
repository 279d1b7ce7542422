"""Targets by name and by instance, from real entry points; settle times."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from flytelineage.components import components
from flytelineage.engine.workflow_events import GROUP, WorkflowEvents
from flytelineage.errors import ConfigurationError
from flytelineage.inbox.sql import Settle
from flytelineage.targets.file import FileTarget
from flytelineage.testing import RecordingTarget

Install = Callable[..., None]

MODULE = '''
from flytelineage.targets.base import Target
from traitlets import Unicode

class Spy(Target):
    """Somebody else's target."""

    colour = Unicode("red", help="A colour.").tag(config=True)

    def send(self, change):
        pass

class NoTarget:
    pass
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with entry points, as pip would leave it: a folder and its dist-info."""
    site = tmp_path / "site"
    (site / "flytelineage_spy-1.0.dist-info").mkdir(parents=True)
    (site / "flytelineage_spy-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flytelineage-spy\nVersion: 1.0\n"
    )
    (site / "flytelineage_spy.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "flytelineage_spy", raising=False)

    def write(**entry_points: str) -> None:
        lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in entry_points.items())]
        (site / "flytelineage_spy-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    return write


def make(*targets: object, **options: object) -> list[object]:
    return list(WorkflowEvents(targets=list(targets), **options).make_targets())


def refused(*targets: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make(*targets)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_no_target_is_the_default() -> None:
    assert make() == []


def test_ours_is_found_by_its_entry_point() -> None:
    (target,) = make("file")
    assert isinstance(target, FileTarget)
    assert target.name == "file"


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert "'file'" in refused("fil")
    assert "did you mean" in refused("files")


def test_a_name_like_no_other_lists_what_is_installed() -> None:
    assert "file" in refused("zzzzzz")


def test_somebody_elses_target_is_found_and_configured(install: Install) -> None:
    install(spy="flytelineage_spy:Spy")
    config = Config({"Spy": {"colour": "blue"}})
    (target,) = WorkflowEvents(config=config, targets=["spy"]).make_targets()
    assert type(target).__name__ == "Spy"
    assert (target.name, target.colour) == ("spy", "blue")  # type: ignore[attr-defined]
    assert "Spy" in {cls.__name__ for cls in components()[0]}
    assert "'spy'" in refused("spi")


def test_a_target_that_cannot_be_imported_is_named(install: Install) -> None:
    install(spy="flytelineage_nowhere:Spy")
    assert "'spy'" in refused("spy")


def test_a_target_that_its_module_does_not_have_is_named(install: Install) -> None:
    install(spy="flytelineage_spy:Missing")
    assert "'spy'" in refused("spy")


def test_a_plug_in_that_fails_on_import_is_named(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site" / "flytelineage_bad.py").write_text("1 / 0\n")
    install(bad="flytelineage_bad:Spy")
    assert "'bad'" in refused("bad")


def test_what_is_no_target_is_refused(install: Install) -> None:
    install(spy="flytelineage_spy:NoTarget")
    assert "no Target" in refused("spy")
    assert "5" in refused(5)
    assert "targets" in refused(FileTarget)


def test_names_are_unique() -> None:
    assert "'file'" in refused("file", "file")
    assert "'file'" in refused("file", FileTarget())
    assert "'a'" in refused(RecordingTarget(name="a"), FileTarget(name="a"))
    assert len(make("file", FileTarget(name="other"))) == 2


def test_an_instance_bears_the_name_of_its_entry_point() -> None:
    (target,) = make(FileTarget(path="x"))
    assert target.name == "file"  # type: ignore[attr-defined]


def test_a_name_from_the_configuration_stays() -> None:
    config = Config({"FileTarget": {"name": "lines"}})
    (target,) = WorkflowEvents(config=config, targets=["file"]).make_targets()
    assert target.name == "lines"


def test_settle_times_are_what_the_options_say() -> None:
    assert WorkflowEvents().settle == Settle(10.0, 300.0)
    assert WorkflowEvents(settle_seconds=0.5, long_settle_seconds=2).settle == Settle(0.5, 2.0)
    with pytest.raises(TraitError):
        WorkflowEvents(settle_seconds=-1.0)


def test_every_option_has_a_help_text() -> None:
    traits = WorkflowEvents.class_traits(config=True)
    assert set(traits) >= {"targets", "emit", "settle_seconds", "long_settle_seconds"}
    assert all(trait.help for trait in traits.values())
