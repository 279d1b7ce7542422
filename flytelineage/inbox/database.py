"""The database: opening it, its schema's revision, and the one thread that writes.

Everything that differs between databases is in this file. SQLite is one file with one writer: every write of the
process goes through :class:`Writer`, which commits many jobs at once (``synchronous=FULL`` is free from about 100 rows
a commit, ingest.md 1), and a second process that wants to write is refused by a lock file beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from flytelineage.errors import ConfigurationError, InboxError, InboxLockedError

log = logging.getLogger(__name__)

HEAD: Final = "0001"
"""The newest migration; a test compares it with the scripts."""

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_GROUP_SECONDS: Final = 0.05
"""How long a transaction may collect further jobs: a bound on the time that the first of them waits."""
_IN_LIST: Final = 500
"""Values in one statement: SQLite takes 32,766 parameters, and a longer statement is no faster."""
_QUEUE: Final = 512
"""Jobs that may wait for the writer; a full queue slows the receivers."""


class Database:
    """One database and its connections.

    Args:
        url: a SQLAlchemy URL; ``sqlite:///FILE`` for now.

    Raises:
        ConfigurationError: the URL is none, or names a database that is not supported yet.
    """

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self.file = None if self.url.database in (None, "", ":memory:") else Path(str(self.url.database))
        if self.file is None:
            msg = "Inbox.url must name a file, such as sqlite:///flytelineage.db: what is in memory is lost at a stop"
            raise ConfigurationError(msg)
        self._engine: Engine | None = None
        self._lock: IO[str] | None = None
        self._reader = threading.local()
        self._readers: list[Connection] = []
        self.writer: Writer | None = None

    def __str__(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def open(self, *, readonly: bool = False) -> None:
        """Open, and bring the schema to the newest revision.

        Args:
            readonly: for commands that read beside a daemon: no lock, no migration, no writer.

        Raises:
            InboxLockedError: another process writes to this file.
            InboxError: it cannot be opened, is no database of ours, or is of another revision.
        """
        file = self.file
        assert file is not None  # noqa: S101  (the constructor saw to it)
        if readonly and not file.exists():
            msg = f"There is no database at {self}: run the daemon or `flytelineage replay` first, or set Inbox.url."
            raise InboxError(msg)
        if not readonly:
            self._acquire_lock(file)
        try:
            # What is not ours is left as it is: mode, journal and all. So the first look changes nothing.
            if readonly or (file.exists() and file.stat().st_size):
                self._engine = self._make_engine(_configure_readonly)
                with self._engine.connect() as connection:
                    self._check(connection, readonly=readonly)
            if not readonly:
                _create_private(file)
                self._engine = self._make_engine(_configure)
                with self._engine.connect() as connection:
                    revision, _ = _revision(connection)
                    if revision != HEAD:
                        self._migrate(connection, revision)
                self.writer = Writer(self._engine)
                self.writer.start()
        except DBAPIError as error:
            self.close()
            msg_0 = f"The database {self} cannot be used: {_reason(error)}."
            raise InboxError(msg_0) from error
        except InboxError:
            self.close()
            raise

    def _make_engine(self, configure: Callable[[Any, object], None]) -> Engine:
        engine = sa.create_engine(self.url, poolclass=NullPool)
        sa.event.listen(engine, "connect", configure)
        return engine

    def _acquire_lock(self, file: Path) -> None:
        path = file.with_name(file.name + ".lock")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+")
        except OSError as error:
            msg = f"The database {self} cannot be opened: {error.strerror}: {error.filename}."
            raise InboxError(msg) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read(20).strip() or "unknown"
            self._lock.close()
            self._lock = None
            msg = (
                f"Another flytelineage process (pid {owner}) is writing to {self}: stop it, or give this one its own "
                "file with --Inbox.url=sqlite:///OTHER.db."
            )
            raise InboxLockedError(msg) from error
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _check(self, connection: Connection, *, readonly: bool) -> None:
        """Refuse what is not ours, and, for reading, what is of another revision."""
        revision, tables = _revision(connection)
        if (revision is None and tables) or (revision is not None and "execution" not in tables):
            msg = f"The database {self} holds other tables and none of ours: name another with Inbox.url."
            raise InboxError(msg)
        if readonly and revision != HEAD:
            msg = (
                f"The database {self} has the schema of revision {revision or 'none'}, this program needs {HEAD}: "
                "start the daemon once, it upgrades the schema."
            )
            raise InboxError(msg)

    def _migrate(self, connection: Connection, revision: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        # Alembic leaves SQLite's DDL outside of any transaction; one that stops halfway must leave nothing behind.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            connection.exec_driver_sql("ROLLBACK")
            msg = (
                f"The database {self} has the schema of revision {revision}, which this program does not know: it was "
                "written by a newer version; run that, or name another file with Inbox.url."
            )
            raise InboxError(msg) from error
        connection.exec_driver_sql("COMMIT")
        log.info("Schema of %s is at revision %s", self, HEAD, extra={"action": "schema_upgraded"})

    def connect(self) -> Connection:
        """A connection of the calling thread for reading; each statement sees the newest commit. Kept open."""
        connection: Connection | None = getattr(self._reader, "connection", None)
        if connection is None:
            assert self._engine is not None  # noqa: S101  (open() comes first)
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._reader.connection = connection
            self._readers.append(connection)
        return connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection whose statements all see the database at one moment; for reading."""
        assert self._engine is not None  # noqa: S101  (open() comes first)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    def close(self) -> None:
        """Write what was submitted, close everything, let go of the lock. Idempotent."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        for connection in self._readers:
            with contextlib.suppress(DBAPIError):
                connection.close()
        self._readers.clear()
        self._reader = threading.local()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        msg = f"Inbox.url {url.split('://')[0]!r} is no database URL: write sqlite:///FILE."
        raise ConfigurationError(msg) from error
    if parsed.get_backend_name() != "sqlite":
        msg = f"Inbox.url: {parsed.get_backend_name()} is not supported yet: write sqlite:///FILE."
        raise ConfigurationError(msg)
    return parsed


def _revision(connection: Connection) -> tuple[str | None, set[str]]:
    """The schema's revision, None when it has none; and the tables."""
    tables = set(sa.inspect(connection).get_table_names())
    revision = None
    if "alembic_version" in tables:
        revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision, tables


def _create_private(file: Path) -> None:
    """The file holds event bytes, inline data among them: it is the daemon's user's alone (DESIGN.md 3.9)."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            file.chmod(0o600)
    except OSError as error:
        msg = f"The database file {file} cannot be opened: {error.strerror}."
        raise InboxError(msg) from error


def _configure(connection: Any, _record: object) -> None:
    """Pragmas as measured in ingest.md 1. ``isolation_level=None``: transactions are begun by us, IMMEDIATE."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_readonly(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("query_only=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _reason(error: DBAPIError) -> str:
    return str(error.orig).splitlines()[0][:200]


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Connection], Any]
    group: Callable[[Connection, list[Any]], Any] | None = None
    item: Any = None
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """The one thread that writes, many jobs to a commit.

    A job is a function of the connection; it may run again in a transaction of its own when another job of its
    transaction failed, so it must have no effect but on the database. Its future ends after the commit, or with the
    job's error.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, name="inbox-writer")
        self._closed = False
        self._ended = False
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, on_commit: Callable[[], None], on_rollback: Callable[[], None]) -> None:
        """Be told in the writer's thread how each transaction ended.

        For whoever remembers between jobs what is in the database: a job may be done, and taken back with its
        transaction because of another.
        """
        self._on_commit.append(on_commit)
        self._on_rollback.append(on_rollback)

    @property
    def alive(self) -> bool:
        """Whether jobs are still being done."""
        return self._thread.is_alive()

    def submit(self, work: Callable[[Connection], Any]) -> Future[Any]:
        """Do a job in the next transaction. Blocks while the queue is full."""
        return self._put(_Job(work))

    def submit_grouped(self, group: Callable[[Connection, list[Any]], Any], item: Any) -> Future[Any]:
        """Do one item of a kind of job that is cheaper for many at once.

        All items of one group in a transaction go to one call; each future gets that call's result.
        """
        return self._put(_Job(_refuse, group, item))

    def run(self, work: Callable[[Connection], Any]) -> Any:
        """Do a job and wait for the commit.

        Raises:
            Exception: what the job, or the database, raised; nothing was written then.
        """
        return self.submit(work).result()

    def close(self) -> None:
        """Do what was submitted, then end. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._thread.is_alive():
                self._jobs.put(None)
                self._thread.join()

    def _run(self) -> None:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            while (first := self._jobs.get()) is not None:
                jobs, ended = self._collect(first)
                self._commit(connection, jobs)
                if ended:
                    break
            with contextlib.suppress(DBAPIError):
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
            self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Nobody must wait for jobs that will not be done."""
        self._ended = True
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.future.set_exception(InboxError("The inbox is closed."))

    def _put(self, job: _Job) -> Future[Any]:
        while not self._ended:
            try:
                self._jobs.put(job, timeout=1.0)
            except queue.Full:
                continue
            if self._ended:
                self._refuse_rest()
            return job.future
        msg = "The inbox is closed."
        raise InboxError(msg)

    def _collect(self, first: _Job) -> tuple[list[_Job], bool]:
        jobs = [first]
        while len(jobs) < _QUEUE:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _end(self, connection: Connection) -> None:
        connection.exec_driver_sql("COMMIT")
        for told in self._on_commit:
            told()

    def _take_back(self, connection: Connection) -> None:
        with contextlib.suppress(DBAPIError):
            connection.exec_driver_sql("ROLLBACK")
        for told in self._on_rollback:
            told()

    def _commit(self, connection: Connection, jobs: Sequence[_Job]) -> None:
        """One transaction for as many jobs as fit into its time; what is left over goes into the next."""
        pending = list(jobs)
        while pending:
            done: list[tuple[_Job, Any]] = []
            together: list[_Job] = []
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                deadline = time.monotonic() + _GROUP_SECONDS
                while pending and (not done or time.monotonic() < deadline):
                    job = pending[0]
                    together = [job] if job.group is None else [other for other in pending if other.group == job.group]
                    result = (
                        job.work(connection) if job.group is None else job.group(connection, [j.item for j in together])
                    )
                    done.extend((member, result) for member in together)
                    pending = [other for other in pending if other not in together] if job.group else pending[1:]
                self._end(connection)
            except Exception as error:  # noqa: BLE001  (a boundary: the outcome is each job's)
                self._take_back(connection)
                tried = [job for job, _ in done if job not in together] + together
                for job in tried:
                    if len(tried) == 1:
                        job.future.set_exception(error)
                    else:
                        self._commit_alone(connection, job)
                pending = [job for job in pending if job not in tried]
            else:
                for job, result in done:
                    job.future.set_result(result)

    def _commit_alone(self, connection: Connection, job: _Job) -> None:
        """A job whose transaction failed, by itself: one bad job must not take others with it."""
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            result = job.work(connection) if job.group is None else job.group(connection, [job.item])
            self._end(connection)
        except Exception as error:  # noqa: BLE001  (a boundary: the outcome is the job's)
            self._take_back(connection)
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


def _refuse(_connection: Connection) -> None:
    msg = "a grouped job is done by its group"
    raise AssertionError(msg)


def many(connection: Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Run one statement for many rows, as the driver does it best; returns the number of rows that changed."""
    if not rows:
        return 0
    return int(connection.exec_driver_sql(sql, list(rows)).rowcount)


def select_in(
    connection: Connection, sql: str, values: Iterable[Any], before: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Run a SELECT with an IN list of any length, in parts that fit into one statement.

    Args:
        connection: to read from.
        sql: with ``{}`` where the list's placeholders go, in brackets: ``WHERE id IN ({})``.
        values: of the list; tuples are row values, all of one length.
        before: parameters that stand before the list.

    Yields:
        The rows.
    """
    every = list(values)
    for start in range(0, len(every), _IN_LIST):
        part = every[start : start + _IN_LIST]
        if isinstance(part[0], tuple):
            row = f"({','.join('?' * len(part[0]))})"
            marks, parameters = "VALUES " + ",".join([row] * len(part)), [value for item in part for value in item]
        else:
            marks, parameters = ",".join("?" * len(part)), part
        result = connection.exec_driver_sql(sql.replace("{}", marks), (*before, *parameters))
        # The driver's own rows: SQLAlchemy's cost as much again as reading them.
        yield from result.cursor.fetchall()
        result.close()
