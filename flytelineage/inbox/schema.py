"""The tables, as the newest migration leaves them (a test compares).

Layout as measured in ingest.md 1: integer keys, a rowid table with a UNIQUE index for events, never ``WITHOUT ROWID``
for their large rows. Times are seconds since the epoch as floats where the daemon's clock wrote them, and nanoseconds
as integers where Flyte did.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite's rowid alias must be spelled INTEGER

execution = Table(
    "execution",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # instance/org/project/domain/name
    Column("mark", Integer, nullable=False),  # events.Mark, joined by max
    Column("events", Integer, nullable=False),  # rows in event; the revision that a claim is checked against
    Column("last_event_at", Float, nullable=False),
    Column("derived_events", Integer, nullable=False),  # `events` when last derived; 0: never
    Column("reopened", Integer, nullable=False),  # late events after deriving; doubles the settle time
    Column("attempts", Integer, nullable=False),  # tries to derive that failed for now
    Column("due", Float),  # schedule, back-off and lease in one (ingest.md 6.2); NULL: nothing to do
    Column("claimed", Integer, nullable=False),  # 1 while a builder has it
    Index("execution_due", "due", sqlite_where=text("due IS NOT NULL"), postgresql_where=text("due IS NOT NULL")),
    sqlite_autoincrement=True,  # an id is never given again: edges, caches and deliveries refer to it
)

event = Table(
    "event",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("execution", _ID, nullable=False),
    Column("k", BigInteger, nullable=False),  # 64-bit hash of the event's own bytes
    Column("encoding", Integer, nullable=False),  # events.Encoding
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("execution", "k", name="event_key"),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", Text, nullable=False),  # message | execution
    Column("k", BigInteger, nullable=False),  # hash of the body, or the execution's id
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False),
    Column("times", Integer, nullable=False),
    UniqueConstraint("kind", "k", name="dead_letter_key"),
)

pipeline = Table(
    "pipeline",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("instance", "org", "name", name="pipeline_key"),
    sqlite_autoincrement=True,  # an id is never given again: edges, caches and deliveries refer to it
)

task = Table(
    "task",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("pipeline", _ID, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("pipeline", "name", "version", "path", name="task_key"),
    sqlite_autoincrement=True,  # an id is never given again: edges, caches and deliveries refer to it
)

place = Table(
    "place",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("platform", "name", name="place_key"),
    sqlite_autoincrement=True,  # an id is never given again: edges, caches and deliveries refer to it
)

run = Table(
    "run",
    metadata,
    Column("execution", _ID, primary_key=True, autoincrement=False),
    Column("pipeline", _ID, nullable=False),
    Column("document", Text, nullable=False),  # lineage.types.Lineage
    Column("data", Text, nullable=False),  # what was read for it: lineage.reading.dump_data
    Index("run_pipeline", "pipeline"),
)

location = Table(
    "location",
    metadata,
    Column("hash", BigInteger, nullable=False),  # of the URI
    Column("execution", _ID, nullable=False),  # who wrote it
    Column("uri", Text, nullable=False),
    Column("task", _ID, nullable=False),
    Column("variable", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),  # of the run: the last to write a URI is who wrote it
    PrimaryKeyConstraint("hash", "execution", "variable"),
    sqlite_with_rowid=False,  # small rows, found by nothing but their key
)

reference = Table(
    "reference",
    metadata,
    Column("hash", BigInteger, nullable=False),  # of the URI, and of each longer prefix of it that may be written
    Column("execution", _ID, nullable=False),  # who reads it
    PrimaryKeyConstraint("hash", "execution"),
    sqlite_with_rowid=False,
)

unresolved = Table(
    "unresolved",
    metadata,
    Column("execution", _ID, nullable=False),
    Column("task", _ID, nullable=False),
    Column("uri", Text, nullable=False),
    PrimaryKeyConstraint("execution", "task", "uri"),
)

edge = Table(
    "edge",
    metadata,
    Column("dataset", Text, nullable=False),  # catalog.state.DatasetKey
    Column("direction", Integer, nullable=False),  # 0: read, 1: written
    Column("task", _ID, nullable=False),
    PrimaryKeyConstraint("dataset", "direction", "task"),
    sqlite_with_rowid=False,
)

delivery = Table(
    "delivery",
    metadata,
    Column("target", Text, nullable=False),
    Column("kind", Text, nullable=False),  # model.Kind
    Column("key", Text, nullable=False),
    Column("pipeline", _ID, nullable=False),  # row that it belongs to; 0: none
    Column("ref", Text, nullable=False),  # how the catalog finds it: engine.deliveries
    Column("wanted", BigInteger, nullable=False),  # revision to be delivered
    Column("done", BigInteger, nullable=False),  # newest revision delivered; 0: none
    Column("digest", Text, nullable=False),  # of the state last delivered: the same is not sent again
    Column("attempts", Integer, nullable=False),
    Column("due", Float),  # next attempt; NULL: delivered, or dead
    Column("last_error", Text, nullable=False),
    Column("dead_at", Float),  # gave up; kept until something changes or somebody retries
    PrimaryKeyConstraint("target", "kind", "key"),
    Index("delivery_pipeline", "pipeline"),
    Index(
        "delivery_due",
        "target",
        "kind",
        "due",
        sqlite_where=text("due IS NOT NULL"),
        postgresql_where=text("due IS NOT NULL"),
    ),
)

target = Table(
    "target",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),  # deliveries are complete up to here
)

counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
