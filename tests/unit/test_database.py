"""The database file: one writer that commits many jobs at once, a lock, and what is refused."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from flytelineage.errors import ConfigurationError, InboxError, InboxLockedError
from flytelineage.inbox.database import Database, Writer, many, select_in
from tests.support.catalog import new_database

SECONDS = 10.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{new_database(tmp_path)}")
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def writer(database: Database) -> Writer:
    assert database.writer is not None
    return database.writer


class Gate:
    """Keeps the writer busy, so that what is submitted meanwhile shares the next transaction."""

    def __init__(self, writer: Writer) -> None:
        self._open = threading.Event()
        began = threading.Event()

        def wait(_connection: Connection) -> None:
            began.set()
            assert self._open.wait(SECONDS)

        self.job: Future[Any] = writer.submit(wait)
        assert began.wait(SECONDS)

    def open(self) -> None:
        self._open.set()


def put(name: str) -> Any:
    def work(connection: Connection) -> str:
        connection.exec_driver_sql("INSERT INTO counter (name, value) VALUES (?, 1)", (name,))
        return name

    return work


def names(database: Database) -> list[str]:
    return list(database.connect().exec_driver_sql("SELECT name FROM counter ORDER BY name").scalars())


def fail(_connection: Connection) -> None:
    msg = "a bad job"
    raise ValueError(msg)


def put_items(connection: Connection, items: list[str]) -> int:
    for item in items:
        if item.startswith("bad"):
            raise ValueError(item)
        connection.exec_driver_sql("INSERT INTO counter (name, value) VALUES (?, ?)", (item, len(items)))
    return len(items)


def test_jobs_that_wait_share_a_transaction_and_end_with_their_results(database: Database, writer: Writer) -> None:
    gate = Gate(writer)
    futures = [writer.submit(put(f"j{n}")) for n in range(5)]
    assert not any(future.done() for future in futures)
    gate.open()
    assert [future.result(SECONDS) for future in futures] == [f"j{n}" for n in range(5)]
    assert names(database) == [f"j{n}" for n in range(5)]


def test_grouped_jobs_go_to_one_call(database: Database, writer: Writer) -> None:
    gate = Gate(writer)
    futures = [writer.submit_grouped(put_items, f"g{n}") for n in range(4)]
    gate.open()
    assert [future.result(SECONDS) for future in futures] == [4] * 4


def test_a_future_ends_only_after_its_commit(database: Database, writer: Writer) -> None:
    seen: list[list[str]] = []
    futures = []
    gate = Gate(writer)
    for n in range(3):
        future = writer.submit(put(f"j{n}"))
        future.add_done_callback(lambda _: seen.append(_read(database)))
        futures.append(future)
    gate.open()
    for future in futures:
        future.result(SECONDS)
    assert all(len(found) == 3 for found in seen)


def _read(database: Database) -> list[str]:
    with sqlite3.connect(str(database.file)) as other:
        found = [row[0] for row in other.execute("SELECT name FROM counter")]
    other.close()
    return found


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_bad_job_takes_no_other_with_it(database: Database, writer: Writer, position: int) -> None:
    jobs = [put("a"), put("b")]
    jobs.insert(position, fail)
    gate = Gate(writer)
    futures = [writer.submit(job) for job in jobs]
    gate.open()
    for number, future in enumerate(futures):
        if number == position:
            with pytest.raises(ValueError, match="a bad job"):
                future.result(SECONDS)
        else:
            future.result(SECONDS)
    assert gate.job.result(SECONDS) is None
    assert names(database) == ["a", "b"]


@pytest.mark.parametrize("items", [["bad", "a", "b"], ["a", "bad", "b"], ["a", "b", "bad"], ["bad", "a", "bad2", "b"]])
def test_a_bad_item_of_a_group_takes_no_other_with_it(database: Database, writer: Writer, items: list[str]) -> None:
    gate = Gate(writer)
    futures = {item: writer.submit_grouped(put_items, item) for item in items}
    gate.open()
    failed = {item for item, future in futures.items() if future.exception(SECONDS) is not None}
    assert failed == {item for item in items if item.startswith("bad")}
    assert names(database) == ["a", "b"]


def test_a_job_that_half_wrote_leaves_nothing(database: Database, writer: Writer) -> None:
    def half(connection: Connection) -> None:
        put("half")(connection)
        msg = "after the first statement"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="after the first"):
        writer.run(half)
    assert names(database) == []
    writer.run(put("next"))
    assert names(database) == ["next"]


def test_closing_does_what_was_submitted(database: Database, writer: Writer) -> None:
    gate = Gate(writer)
    futures = [writer.submit(put(f"j{n}")) for n in range(600 - 100)]
    closing = threading.Thread(target=database.close)
    closing.start()
    gate.open()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert all(future.done() and future.exception() is None for future in futures)
    database.close()


def test_a_job_after_the_close_is_refused_and_not_left_hanging(database: Database, writer: Writer) -> None:
    database.close()
    with pytest.raises(InboxError, match="closed"):
        writer.submit(put("late")).result(0.05)


def test_a_job_whose_commit_fails_is_told(database: Database, writer: Writer) -> None:
    def broken(connection: Connection) -> None:
        put("x")(connection)
        connection.exec_driver_sql("ROLLBACK")  # so that COMMIT finds no transaction

    with pytest.raises(Exception, match="no transaction"):
        writer.run(broken)
    writer.run(put("y"))
    assert names(database) == ["y"]


# -- opening ---------------------------------------------------------------------------------------------------------


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_a_second_writer_is_refused_in_one_sentence(database: Database) -> None:
    second = Database(str(database.url))
    with pytest.raises(InboxLockedError) as caught:
        second.open()
    assert "pid" in one_sentence(caught.value)
    second.close()
    database.close()
    second.open()
    second.close()


def test_a_reader_works_beside_the_writer_and_sees_each_commit(database: Database, writer: Writer) -> None:
    reader = Database(str(database.url))
    reader.open(readonly=True)
    writer.run(put("one"))
    assert names(reader) == ["one"]
    writer.run(put("two"))
    assert names(reader) == ["one", "two"]
    assert reader.writer is None
    reader.close()


def test_a_snapshot_sees_one_moment(database: Database, writer: Writer) -> None:
    with database.snapshot() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM counter").scalar()
        writer.run(put("one"))
        assert connection.exec_driver_sql("SELECT count(*) FROM counter").scalar() == before == 0


def test_a_reader_cannot_write(database: Database) -> None:
    reader = Database(str(database.url))
    reader.open(readonly=True)
    with pytest.raises(Exception, match="readonly"):
        reader.connect().exec_driver_sql("DELETE FROM counter")
    reader.close()


def test_reading_what_is_not_there_is_refused_and_makes_no_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(InboxError, match="no database"):
        database.open(readonly=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://u:secret@h/d", "nonsense", "oracle9://x", ""]
)
def test_urls_that_cannot_work_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert "secret" not in one_sentence(caught.value)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}")
    with pytest.raises(InboxError) as caught:
        database.open()
    one_sentence(caught.value)
    database.close()


def test_missing_folders_are_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a' / 'b' / 'lineage.db'}")
    database.open()
    database.close()


def test_the_file_and_what_lies_beside_it_are_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "lineage.db"
    file.touch(0o644)
    database = Database(f"sqlite:///{file}")
    database.open()
    assert database.writer is not None
    database.writer.run(put("x"))
    database.connect().exec_driver_sql("SELECT 1")
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir() if f.suffix != ".lock"}
    database.close()
    assert modes == dict.fromkeys(("lineage.db", "lineage.db-wal", "lineage.db-shm"), 0o600)


# -- statements ------------------------------------------------------------------------------------------------------


def test_lists_of_any_length_fit_into_select_in(writer: Writer, database: Database) -> None:
    writer.run(
        lambda c: many(c, "INSERT INTO counter (name, value) VALUES (?, ?)", [(f"n{i}", i) for i in range(1700)])
    )
    query = "SELECT value FROM counter WHERE name IN ({})"
    found = select_in(database.connect(), query, [f"n{i}" for i in range(0, 1700, 1)])
    assert sorted(row[0] for row in found) == list(range(1700))
    assert list(select_in(database.connect(), query, [])) == []
    pairs = [(f"n{i}", i) for i in range(600)] + [("n1", 2)]
    query = "SELECT name FROM counter WHERE value >= ? AND (name, value) IN ({})"
    assert len(list(select_in(database.connect(), query, pairs, (100,)))) == 500


def test_many_counts_what_changed(writer: Writer) -> None:
    sql = "INSERT INTO counter (name, value) VALUES (?, 1) ON CONFLICT DO NOTHING"
    assert writer.run(lambda c: many(c, sql, [("a",), ("b",), ("a",)])) == 2
    assert writer.run(lambda c: many(c, sql, [])) == 0
