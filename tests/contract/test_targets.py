"""What every target promises, of ours: the file, and the double that others test with."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from flytelineage.errors import ConfigurationError, TargetUnavailableError
from flytelineage.model import Kind
from flytelineage.targets.base import Change, Target
from flytelineage.targets.file import FileTarget, read_state
from flytelineage.testing import RecordingTarget, TargetContract, example_changes


class TestFileTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "folder" / "lineage.jsonl"

    def make_target(self) -> Target:
        return FileTarget(path=str(self.path))

    def read_state(self) -> Any:
        return read_state(self.path.read_text().splitlines())

    def reset(self) -> None:
        self.path.unlink()


class TestRecordingTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def _server(self) -> None:
        self.target = RecordingTarget()

    def make_target(self) -> Target:
        return self.target

    def read_state(self) -> Any:
        return dict(self.target.state)

    def reset(self) -> None:
        self.target.changes.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lineage.jsonl"


@pytest.fixture
def target(path: Path) -> Iterator[FileTarget]:
    opened = FileTarget(path=str(path))
    opened.open()
    yield opened
    opened.close(1.0)


def state(path: Path) -> dict[tuple[str, str], Any]:
    return read_state(path.read_text(encoding="utf-8").splitlines())


def test_a_line_has_kind_key_revision_and_entity(target: FileTarget, path: Path) -> None:
    target.send_all(example_changes(revision=7))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"kind", "key", "revision", "removed", "entity"}] * 5
    assert {line["revision"] for line in lines} == {7}
    assert [line["kind"] for line in lines] == ["pipeline", "dataset", "dataset", "task", "run"]


def test_the_file_is_the_users_alone(target: FileTarget, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_spoils_neither_itself_nor_the_next(path: Path, cut: int) -> None:
    whole = FileTarget(path=str(path))
    whole.open()
    whole.send_all(example_changes())
    whole.close(1.0)
    expected = state(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(state(path)) in (4, 5)
    again = FileTarget(path=str(path))
    again.open()
    again.send(example_changes()[-1])
    again.close(1.0)
    assert state(path) == expected


class FullDisk:
    """A file of which only a part of the next write reaches the disk."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self._file = file
        self.room = room

    def write(self, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self.room])
        self.room -= written
        return written

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_what_is_sent_after_a_full_disk_is_not_glued_to_half_a_line(target: FileTarget, path: Path) -> None:
    changes = example_changes()
    assert target._file is not None
    disk = FullDisk(target._file, room=250)
    target._file = disk  # type: ignore[assignment]
    outcomes = target.send_all(changes)
    assert all(isinstance(outcome, TargetUnavailableError) for outcome in outcomes)
    disk.room = 1_000_000
    assert list(target.send_all(changes[:1])) == [None]
    assert (changes[0].kind.value, changes[0].key) in state(path)


def test_an_older_revision_that_comes_late_is_not_the_state(target: FileTarget, path: Path) -> None:
    (newer, *_), (older, *_) = example_changes(revision=9), example_changes(revision=3)
    target.send(newer)
    target.send(Change(older.kind, older.key, 3, None))
    assert (newer.kind.value, newer.key) in state(path)


def test_what_is_removed_and_told_again_is_there(target: FileTarget, path: Path) -> None:
    change = example_changes(revision=1)[0]
    target.send(change)
    target.send(Change(change.kind, change.key, 2, None))
    assert state(path) == {}
    target.send(Change(change.kind, change.key, 3, change.entity))
    assert list(state(path)) == [(Kind.PIPELINE.value, change.key)]


def test_sending_before_opening_is_tried_again(path: Path) -> None:
    with pytest.raises(TargetUnavailableError):
        FileTarget(path=str(path)).send(example_changes()[0])


def test_a_path_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"FileTarget\.path"):
        FileTarget(path=str(tmp_path / "file" / "lineage.jsonl")).open()
    with pytest.raises(ConfigurationError, match=r"FileTarget\.path"):
        FileTarget(path=str(tmp_path)).open()
