"""Every exception that flytelineage raises on purpose.

::

    FlyteLineageError
    ├── ConfigurationError        the start stops; one sentence says what to write instead
    │   ├── CredentialsError      no usable AWS credentials
    │   ├── QueueNotFoundError    the queue is not there, or may not be used
    │   └── InboxLockedError      another process owns the database file
    ├── RetryableError            the same call may succeed later
    │   ├── StorageUnavailableError
    │   └── TargetUnavailableError
    └── PermanentError            the same call can never succeed: quarantine with the reason
        ├── DecodeError           a message that is no Flyte event
        ├── ObjectUnreadableError an object that is not there, may not be read, or is no literal map or data file
        │   └── ObjectNotFoundError
        └── TargetRejectedError   the target refuses this entity

Anything else that escapes is a defect of ours: the process stops loudly, the work is safe in the inbox.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its supervisor; documented in docs/operations.md."""

    OK = 0
    """Everything was drained within the shutdown timeout."""
    FAILURE = 1
    """A defect: an exception that nobody expected."""
    CONFIGURATION = 2
    """An option or the configuration file is wrong. Restarting does not help."""
    CREDENTIALS = 3
    """No usable AWS credentials."""
    QUEUE = 4
    """The queue does not exist or may not be used."""
    INBOX = 5
    """The database cannot be opened, is of another revision, or is owned by another process."""
    WORKER_DIED = 6
    """A thread that ingestion needs has died. Restart: nothing is lost."""
    INCOMPLETE = 7
    """Stopped before everything was drained. Nothing is lost; the next start goes on."""
    INTERRUPTED = 130
    """A second signal: left at once. Nothing is lost."""


class FlyteLineageError(Exception):
    """Base of all our exceptions; the message is one sentence for a person."""


class ConfigurationError(FlyteLineageError):
    """What the user wrote cannot work; the message says what to write instead."""

    exit_code = ExitCode.CONFIGURATION


class CredentialsError(ConfigurationError):
    """AWS credentials are missing, expired or refused."""

    exit_code = ExitCode.CREDENTIALS


class QueueNotFoundError(ConfigurationError):
    """The SQS queue does not exist in that region, or may not be used with these credentials."""

    exit_code = ExitCode.QUEUE


class InboxError(ConfigurationError):
    """The database cannot be opened or has a schema of another revision."""

    exit_code = ExitCode.INBOX


class InboxLockedError(InboxError):
    """Another flytelineage process owns the database file."""


class RetryableError(FlyteLineageError):
    """The same call may succeed later.

    Args:
        message: what happened, in one sentence.
        retry_after: seconds that the other side asked us to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageUnavailableError(RetryableError):
    """The object store did not answer, or throttled us."""


class TargetUnavailableError(RetryableError):
    """The target did not answer, or throttled us."""


class PermanentError(FlyteLineageError):
    """The same call can never succeed."""


class DecodeError(PermanentError):
    """The message is no Flyte event; the message text is the dead letter's reason."""


class ObjectUnreadableError(PermanentError):
    """An object may not be read, is too large, or is not what it should be."""


class ObjectNotFoundError(ObjectUnreadableError):
    """There is no object at this URI."""


class TargetRejectedError(PermanentError):
    """The target refuses this entity as it is."""
