"""The schema is the sum of its migrations, and no database but ours is touched."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from flytelineage.errors import InboxError
from flytelineage.inbox import schema
from flytelineage.inbox.database import HEAD, Database
from flytelineage.inbox.sql import Inbox

MIGRATIONS = Path(schema.__file__).with_name("migrations")


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


def open_and_close(file: Path) -> None:
    database = Database(f"sqlite:///{file}")
    try:
        database.open()
    finally:
        database.close()


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    file = tmp_path / "lineage.db"
    open_and_close(file)
    return file


def test_the_schema_is_the_sum_of_its_migrations(migrated: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_the_schema_made_directly_is_the_same_to_the_letter(migrated: Path, tmp_path: Path) -> None:
    """Also what Alembic does not compare: primary keys, unique constraints' names, conditions of indexes."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    schema.metadata.create_all(engine)
    engine.dispose()
    assert statements(migrated) == statements(tmp_path / "direct.db")


def statements(file: Path) -> dict[str, str]:
    with sqlite3.connect(file) as connection:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
        ).fetchall()
    connection.close()
    return {name: re.sub(r"\s+", " ", sql).strip().lower() for name, sql in rows}


def test_the_head_is_the_newest_script() -> None:
    assert scripts().get_heads() == [HEAD]


def test_the_migrations_are_packaged() -> None:
    assert (MIGRATIONS / "env.py").exists()
    assert [script.revision for script in scripts().walk_revisions()] == [HEAD]


def test_opening_again_keeps_what_is_there(migrated: Path) -> None:
    with sqlite3.connect(migrated) as connection:
        connection.execute("INSERT INTO counter (name, value) VALUES ('x', 1)")
    connection.close()
    open_and_close(migrated)
    assert query(migrated, "SELECT name FROM counter") == [("x",)]


def query(file: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(file) as connection:
        rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("readonly", [False, True])
def test_a_newer_revision_is_refused(migrated: Path, readonly: bool) -> None:
    with sqlite3.connect(migrated) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    database = Database(f"sqlite:///{migrated}")
    with pytest.raises(InboxError, match="9999") as caught:
        database.open(readonly=readonly)
    database.close()
    assert "\n" not in str(caught.value)
    assert query(migrated, "SELECT version_num FROM alembic_version") == [("9999",)]


@pytest.mark.parametrize("readonly", [False, True])
def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path, readonly: bool) -> None:
    """Neither its content nor its mode nor its journal is ours to change."""
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    file.chmod(0o644)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    database = Database(f"sqlite:///{file}")
    with pytest.raises(InboxError, match=r"shop\.db"):
        database.open(readonly=readonly)
    database.close()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_foreign_database_with_a_migration_of_the_same_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (HEAD,))
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    inbox = Inbox(url=f"sqlite:///{file}")
    try:
        with pytest.raises(InboxError):
            inbox.open()
    finally:
        inbox.close()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, readonly: bool) -> None:
    file = tmp_path / "notes.txt"
    text = b"These are my notes, and no database.\n" * 100
    file.write_bytes(text)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(InboxError, match=r"notes\.txt") as caught:
        database.open(readonly=readonly)
    database.close()
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == text


def test_reading_an_empty_file_asks_for_the_daemon(tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    file.touch()
    database = Database(f"sqlite:///{file}")
    with pytest.raises(InboxError, match="start the daemon"):
        database.open(readonly=True)
    database.close()


def test_a_refused_file_is_not_locked(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"no database\n" * 200)
    first = Database(f"sqlite:///{file}")
    with pytest.raises(InboxError):
        first.open()
    file.unlink()
    open_and_close(file)
    first.close()


def test_the_file_and_its_journals_are_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "lineage.db"
    inbox = Inbox(url=f"sqlite:///{file}")
    inbox.open()
    inbox.writer.run(lambda c: c.exec_driver_sql("INSERT INTO counter (name, value) VALUES ('x', 1)"))
    inbox.is_idle()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    inbox.close()
    assert {name: mode for name, mode in modes.items() if not name.endswith(".lock")} == {
        "lineage.db": 0o600,
        "lineage.db-wal": 0o600,
        "lineage.db-shm": 0o600,
    }
