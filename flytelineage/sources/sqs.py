"""Messages from an Amazon SQS queue, or from one that speaks its protocol.

At-least-once, as SQS itself: a message comes back until its deletion has worked, and that is left to the inbox, which
knows it again. Whatever goes wrong while the daemon runs is retried for ever; only :meth:`SQSSource.open` gives up,
and only for what a person has to mend.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from enum import Enum
from threading import Event, Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError
from traitlets import Int, Unicode, observe

from flytelineage import __version__
from flytelineage.clock import Clock, SystemClock
from flytelineage.errors import ConfigurationError, CredentialsError, QueueNotFoundError
from flytelineage.sources.base import Message, Source

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BATCH_ENTRIES = 10
"""SQS's own limit of entries in a batch call and of messages in an answer."""

CONNECT_TIMEOUT_SECONDS = 3.0
BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 30.0
BATCH_TRIES = 3
"""Of a batch call, and of entries in it that failed by SQS's own fault: the first try and two more."""
CALM_SECONDS = 60.0
"""Trouble that comes back sooner than this is the same trouble to the log."""
REPORT_SECONDS = 60.0
"""Messages that could not be deleted are reported at most this often."""

_REGION_IN_HOST = re.compile(
    r"(?:^|\.)sqs(?:-fips)?\.(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+)\.|^(?P<legacy>[a-z]{2}(?:-[a-z]+)+-\d+)\.queue\."
)
_AWS_HOST = re.compile(r"(?:(?:sqs(?:-fips)?\.)?[a-z0-9-]+\.)?(?:queue\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)")
"""AWS's public end points. Any other host in a queue's URL (an emulator, a VPC end point) is where its calls go."""


class Fault(Enum):
    """What an error of botocore's means to us."""

    NETWORK = "the network or the end point does not answer"
    THROTTLED = "SQS throttles us"
    UNAVAILABLE = "SQS has a fault of its own"
    CREDENTIALS = "the AWS credentials are missing, expired or invalid"
    QUEUE = "the queue does not exist"
    DENIED = "access to the queue is denied"
    CONFIGURATION = "the AWS configuration cannot work"
    REQUEST = "SQS does not accept the request"
    DEFECT = "flytelineage called botocore wrongly"
    UNKNOWN = "an error that is not known here"


_TRANSIENT = frozenset({Fault.NETWORK, Fault.THROTTLED, Fault.UNAVAILABLE, Fault.UNKNOWN})


def _table(rows: dict[Fault, str]) -> dict[str, Fault]:
    return {name: fault for fault, names in rows.items() for name in names.split()}


_EXCEPTIONS = _table(
    {
        Fault.NETWORK: "HTTPClientError ConnectionError MetadataRetrievalError OSError",
        Fault.UNAVAILABLE: "ChecksumError FlexibleChecksumError IncompleteReadError ResponseParserError"
        " CapacityNotAvailableError",
        Fault.CREDENTIALS: "NoCredentialsError PartialCredentialsError CredentialRetrievalError UnknownCredentialError"
        " NoAuthTokenError TokenRetrievalError SSOError LoginError RefreshWithMFAUnsupportedError"
        " UnknownTokenProviderError",
        Fault.CONFIGURATION: "ProfileNotFound ConfigNotFound ConfigParseError InvalidConfigError InvalidDefaultsMode"
        " BaseEndpointResolverError EndpointProviderError InvalidEndpointConfigurationError InvalidRegionError"
        " UnknownRegionError ServiceNotInRegionError InvalidHostLabelError InvalidDNSNameError"
        " InvalidIMDSEndpointError InvalidIMDSEndpointModeError InvalidProxiesConfigError"
        " InvalidRetryConfigurationError InvalidSTSRegionalEndpointsConfigError InvalidChecksumConfigError"
        " InvalidEndpointDiscoveryConfigurationError InvalidS3AddressingStyleError"
        " InvalidS3UsEast1RegionalEndpointConfigError MissingDependencyException DataNotFoundError"
        " ApiVersionNotFoundError MD5UnavailableError UnknownSignatureVersionError UnsupportedSignatureVersionError"
        " UnsupportedServiceProtocolsError UnknownServiceStyle",
        Fault.DEFECT: "ParamValidationError ValidationError MissingParametersError OperationNotPageableError"
        " PaginationError InvalidExpressionError WaiterError WaiterConfigError UnknownClientMethodError"
        " UnseekableStreamError AwsChunkedWrapperError StubResponseError UndefinedModelAttributeError"
        " UnsupportedOutpostResourceError UnsupportedS3AccesspointConfigurationError UnsupportedS3ArnError"
        " UnsupportedS3ConfigurationError UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError",
    }
)
"""By class name, the nearest in the exception's own line of classes first; a name that botocore lacks does no harm.

The two roots, BotoCoreError and ClientError, are left out: a class that nothing here names is ``UNKNOWN``, which a test
forbids for every class of the installed botocore.
"""

_CODES = _table(
    {
        Fault.QUEUE: "QueueDoesNotExist NonExistentQueue QueueDeletedRecently InvalidAddress ResourceNotFoundException",
        Fault.DENIED: "AccessDenied AccessDeniedException AuthorizationError InvalidSecurity KmsAccessDenied"
        " KmsDisabled KmsInvalidKeyUsage KmsInvalidState KmsNotFound KmsOptInRequired KMS.AccessDeniedException"
        " KMS.DisabledException KMS.InvalidKeyUsageException KMS.InvalidStateException KMS.NotFoundException"
        " KMS.OptInRequired",
        Fault.CREDENTIALS: "AuthFailure ExpiredToken ExpiredTokenException IncompleteSignature InvalidAccessKeyId"
        " InvalidClientTokenId InvalidSignatureException InvalidToken MissingAuthenticationToken"
        " MissingAuthenticationTokenException NotAuthorized OptInRequired RequestExpired SignatureDoesNotMatch"
        " TokenRefreshRequired UnrecognizedClientException",
        Fault.THROTTLED: "RequestThrottled RequestThrottledException KmsThrottled KMS.ThrottlingException OverLimit"
        " Throttling ThrottlingException ThrottledException TooManyRequestsException RequestLimitExceeded"
        " BandwidthLimitExceeded LimitExceededException PriorRequestNotComplete SlowDown",
        Fault.UNAVAILABLE: "InternalError InternalFailure InternalServerError ServiceUnavailable"
        " ServiceUnavailableException RequestTimeout RequestTimeoutException",
        Fault.REQUEST: "BatchEntryIdsNotDistinct BatchRequestTooLong EmptyBatchRequest InvalidAttributeName"
        " InvalidAttributeValue InvalidBatchEntryId InvalidIdFormat InvalidMessageContents InvalidParameterValue"
        " MessageNotInflight PurgeQueueInProgress QueueNameExists ReceiptHandleIsInvalid TooManyEntriesInBatchRequest"
        " UnsupportedOperation",
    }
)
"""By the answer's error code: the service model's shapes, their names in the query protocol, AWS's common errors."""

_QUERY_PREFIX = "AWS.SimpleQueueService."

_ERRORS = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    ResponseParserError,
    OSError,
)
"""Everything that a call of a client, or making one, raises for reasons outside of this process."""


def fault_of(error: BaseException) -> Fault:
    """The one edge where botocore's errors get their meaning: by code, then by status, then by class.

    Returns:
        ``UNKNOWN`` for what is not known; it is retried like a fault of the network.
    """
    if isinstance(error, botocore.exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "")).removeprefix(_QUERY_PREFIX)
        fault = _CODES.get(code)
        return fault or _fault_of_status(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    for cls in type(error).__mro__:
        if cls.__name__ in _EXCEPTIONS:
            return _EXCEPTIONS[cls.__name__]
    return Fault.UNKNOWN


def _fault_of_status(status: int) -> Fault:
    if status >= 500:
        return Fault.UNAVAILABLE
    known = {401: Fault.CREDENTIALS, 403: Fault.DENIED, 408: Fault.UNAVAILABLE, 429: Fault.THROTTLED}
    return known.get(status, Fault.REQUEST if status >= 400 else Fault.UNKNOWN)


class _Trouble:
    """What the log says of an outage: one warning when it begins, one line when it is over, however many tries.

    Shared by all receivers. Another kind of fault during the same outage is news, once. An outage that comes back
    within a minute must stay away for a whole one before it counts as over again.
    """

    def __init__(self, source: SQSSource) -> None:
        self._source = source
        self._lock = Lock()
        self._since: float | None = None
        self._last = 0.0
        self._ended = float("-inf")
        self._calm = 0.0
        self._tries = 0
        self._kinds: set[Fault] = set()

    def failed(self, fault: Fault, error: BaseException) -> None:
        """A call has failed and will be tried again."""
        now = self._source.clock.monotonic()
        with self._lock:
            if self._since is None:
                self._since, self._tries, self._kinds = now, 0, set()
                self._calm = CALM_SECONDS if now - self._ended < CALM_SECONDS else 0.0
            self._last = now
            self._tries += 1
            news = fault not in self._kinds
            self._kinds.add(fault)
        if news:
            self._source.log.warning(
                "Cannot receive from %s: %s (%s). Trying again until it works.",
                self._source.described,
                fault.value,
                _bounded(error),
                extra={"action": "sqs_trouble", "queue": self._source.queue, "fault": fault.name.lower()},
            )

    def worked(self, began: float) -> None:
        """A call that began then has worked; one from before the last failure proves nothing."""
        if self._since is None:
            return
        now = self._source.clock.monotonic()
        with self._lock:
            if self._since is None or began < self._last or now - self._last < self._calm:
                return
            seconds, tries = now - self._since, self._tries
            self._since, self._ended = None, now
        self._source.log.info(
            "Receiving from %s again, after %.0f s and %d failed tries.",
            self._source.described,
            seconds,
            tries,
            extra={"action": "sqs_trouble_over", "queue": self._source.queue, "tries": tries},
        )


class _Losses:
    """Counts batch entries that failed for good, and reports the new ones at most once a minute."""

    def __init__(self, source: SQSSource, action: str, text: str) -> None:
        self._source = source
        self._action = action
        self._text = text
        self._lock = Lock()
        self._reported_at = float("-inf")
        self._unreported = 0
        self.total = 0

    def add(self, count: int, reason: str) -> None:
        if not count:
            return
        now = self._source.clock.monotonic()
        with self._lock:
            self.total += count
            self._unreported += count
            if now - self._reported_at < REPORT_SECONDS:
                return
            self._reported_at = now
            news, self._unreported = self._unreported, 0
        self._report(news, reason)

    def flush(self) -> None:
        with self._lock:
            news, self._unreported = self._unreported, 0
        if news:
            self._report(news, "see above")

    def _report(self, count: int, reason: str) -> None:
        self._source.log.warning(
            self._text,
            count,
            self._source.described,
            reason,
            extra={"action": self._action, "queue": self._source.queue, "count": count},
        )


class SQSSource(Source):
    """Drains one SQS queue.

    While the daemon runs, everything is retried for ever, with capped jittered back-off and one line in the log when
    it begins and when it ends: throttling, the network, SQS's own faults, but also expired credentials (they may be
    renewed; they are looked up anew before each try) and a queue that was deleted (it may be made again under the
    same name). At the start the same holds for the network; missing credentials and queues stop it.
    """

    queue = Unicode("", help="Name or URL of the queue. Required.").tag(config=True)
    region = Unicode(
        None,
        allow_none=True,
        help=(
            "AWS region of the queue, such as eu-west-1. None: the one in the queue's URL, then the AWS chain's "
            "(AWS_DEFAULT_REGION, profile), then us-east-1."
        ),
    ).tag(config=True)
    endpoint_url = Unicode(
        None,
        allow_none=True,
        help=(
            "URL of the SQS end point, for emulators and VPC end points. None: the queue's URL when its host is not "
            "one of AWS's public ones, then AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL, then AWS itself."
        ),
    ).tag(config=True)
    receivers = Int(
        2, min=1, help="Threads that receive messages: 2 to 4 near the queue, up to 16 far away from it."
    ).tag(config=True)
    wait_seconds = Int(
        10,
        min=0,
        max=20,
        help=(
            "How long one call waits for messages (long polling), in seconds. A stop waits for calls under way. "
            "0: no waiting; every empty call is billed, and may miss messages."
        ),
    ).tag(config=True)
    visibility_timeout_seconds = Int(
        60,
        min=1,
        max=43_200,
        help=(
            "How long a received message is hidden from others, in seconds, before it comes back; extended while it "
            "waits for its commit. It overrides the queue's own."
        ),
    ).tag(config=True)
    batch_size = Int(
        BATCH_ENTRIES, min=1, max=BATCH_ENTRIES, help="The most messages that one call receives. SQS allows 10."
    ).tag(config=True)

    _sdk_attempts = 2

    def __init__(self, clock: Clock | None = None, **kwargs: Any) -> None:
        """Store the options; nothing is connected before :meth:`open`."""
        super().__init__(**kwargs)
        self.clock: Clock = clock or SystemClock()
        self.visibility_timeout = float(self.visibility_timeout_seconds)
        self._lock = Lock()
        self._client: SQSClient | None = None
        self._queue_url: str | None = None
        self._region: str | None = None
        self._checked: list[Message] = []
        self._closed = Event()
        self._random = random.Random()  # noqa: S311  (jitter)
        self._trouble = _Trouble(self)
        self._undeleted = _Losses(
            self,
            "sqs_not_deleted",
            "%d messages were not deleted from %s and will come back, which does no harm: %s",
        )
        self._unchanged = _Losses(
            self, "sqs_visibility_not_changed", "The visibility of %d messages of %s could not be changed: %s"
        )

    @observe("visibility_timeout_seconds")
    def _visibility_changed(self, change: Any) -> None:
        self.visibility_timeout = float(change["new"])

    @property
    def described(self) -> str:
        """The queue and its region, for messages."""
        return f"queue {self.queue!r} in region {self._region or self.region or 'unknown'}"

    @property
    def not_deleted(self) -> int:
        """Messages since the start whose deletion failed for good; they come back."""
        return self._undeleted.total

    # -- the start -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Find the queue and check that it may be used.

        A network or an SQS that does not answer is no reason to stop, an orchestrator would only start us again:
        :meth:`receive` goes on trying.

        Raises:
            ConfigurationError: no queue is named, or region, profile or end point cannot work.
            CredentialsError: AWS credentials are missing, expired or invalid.
            QueueNotFoundError: the queue does not exist, or may not be received from.
        """
        self._check_options()
        try:
            self._queue_url = self._find_queue(self._connected())
        except _ERRORS as error:
            fault = fault_of(error)
            if fault in _TRANSIENT:
                self._trouble.failed(fault, error)
                return
            raise self._start_error(fault, error) from error
        except ValueError as error:  # botocore's word on an end point that is no URL
            raise self._start_error(Fault.CONFIGURATION, error) from error

    def _check_options(self) -> None:
        if not self.queue:
            message = "No queue is given: write --sqs_queue=NAME_OR_URL."
            raise ConfigurationError(message)
        if self.queue.startswith("arn:"):
            message = f"{self.queue!r} is an ARN: write the queue's name or URL as --sqs_queue."
            raise ConfigurationError(message)
        named = _region_in(self.queue)
        if self.region and named and self.region != named:
            message = (
                f"The queue's URL is in region {named} and the option says {self.region}: "
                "leave --FlyteLineage.aws_region out."
            )
            raise ConfigurationError(message)

    def _find_queue(self, client: SQSClient) -> str:
        """The queue's URL, once it is known that the queue may be used."""
        url = self.queue if _is_url(self.queue) else client.get_queue_url(QueueName=self.queue)["QueueUrl"]
        try:
            client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        except botocore.exceptions.ClientError as error:
            if fault_of(error) is not Fault.DENIED:
                raise
            # Least privilege often leaves GetQueueAttributes out, and SQS says the same of other accounts' queues that
            # are not there. Receiving decides; what it brings is the first receive's result, so nothing is lost.
            messages = self._receive_now(client, url, wait_seconds=0)
            with self._lock:
                self._checked += messages
        return url

    def _start_error(self, fault: Fault, error: BaseException) -> ConfigurationError:
        reason = _bounded(error)
        if fault is Fault.CREDENTIALS:
            return CredentialsError(
                f"The AWS credentials for {self.described} are missing, expired or invalid ({reason}): set "
                "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this host a role."
            )
        if fault is Fault.QUEUE:
            return QueueNotFoundError(
                f"There is no {self.described}: check --sqs_queue, --FlyteLineage.aws_region and the account."
            )
        if fault is Fault.DENIED:
            return QueueNotFoundError(
                f"Access to {self.described} is denied ({reason}): allow sqs:GetQueueUrl, sqs:ReceiveMessage, "
                "sqs:DeleteMessage and sqs:ChangeMessageVisibility."
            )
        return ConfigurationError(
            f"SQS cannot be used for {self.described} ({reason}): check --sqs_queue, --FlyteLineage.aws_region, "
            "SQSSource.endpoint_url and the AWS profile."
        )

    # -- receiving -------------------------------------------------------------------------------------------------

    def receive(self, stop: Event) -> Sequence[Message]:
        """Wait up to ``wait_seconds`` for messages; see :meth:`flytelineage.sources.base.Source.receive`.

        Faults are retried until ``stop`` is set; then the result is empty. A call under way is not interrupted.
        """
        attempt = 0
        while not stop.is_set():
            client = self._client
            began = self.clock.monotonic()
            try:
                client = self._connected()
                url = self._queue_url = self._queue_url or self._find_queue(client)
                messages = self._take_checked() or self._receive_now(client, url, self.wait_seconds)
            except _ERRORS as error:
                fault = fault_of(error)
                if fault is Fault.DEFECT:
                    raise
                self._trouble.failed(fault, error)
                if fault is Fault.CREDENTIALS:
                    self._forget(client)
            else:
                self._trouble.worked(began)
                return messages
            self.clock.wait(stop, self._backoff(attempt))
            attempt += 1
        return []

    def _take_checked(self) -> list[Message]:
        """What the check of the queue has received."""
        with self._lock:
            messages, self._checked = self._checked, []
        return messages

    def _receive_now(self, client: SQSClient, url: str, wait_seconds: int) -> list[Message]:
        response = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=self.batch_size,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self.visibility_timeout_seconds,
        )
        return [
            Message(body=item.get("Body", ""), message_id=item.get("MessageId", ""), receipt=item["ReceiptHandle"])
            for item in response.get("Messages", ())
        ]

    def _backoff(self, attempt: int) -> float:
        """Seconds to wait: full jitter up to a bound that doubles, capped.

        Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        return self._random.uniform(0.0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(attempt, 16)))

    # -- what becomes of messages ----------------------------------------------------------------------------------

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Delete messages, 10 a call, and read every entry's result.

        Entries that failed by SQS's fault are tried three times, whole calls too. What is left comes back after its
        visibility timeout and is recognised; it is counted in :attr:`not_deleted`. Never raises for SQS's reasons.
        """
        self._in_batches(messages, self._undeleted, BATCH_TRIES, _delete)

    def extend(self, messages: Sequence[Message]) -> None:
        """Hide messages for another visibility timeout, counted from now. Best effort, never raises."""
        self._in_batches(messages, self._unchanged, BATCH_TRIES, _change_visibility(self.visibility_timeout_seconds))

    def release(self, messages: Sequence[Message]) -> None:
        """Make messages visible to others at once. Best effort, one try, never raises."""
        self._in_batches(messages, self._unchanged, 1, _change_visibility(0))

    def _in_batches(self, messages: Sequence[Message], losses: _Losses, tries: int, call: _BatchCall) -> None:
        for start in range(0, len(messages), BATCH_ENTRIES):
            receipts = [message.receipt for message in messages[start : start + BATCH_ENTRIES]]
            lost, reason = self._batch(receipts, tries, call)
            losses.add(lost, reason)

    def _batch(self, receipts: list[str], tries: int, call: _BatchCall) -> tuple[int, str]:
        """One batch call and its repetitions.

        Returns:
            How many entries failed for good, and one reason.
        """
        lost, reason = 0, ""
        for attempt in range(tries):
            if attempt:
                self.clock.wait(self._closed, self._backoff(attempt - 1))
            client, url = self._client, self._queue_url
            if url is None:
                return lost + len(receipts), "the queue has not been found yet"
            try:
                client = self._connected()
                response = call(client, url, receipts)
            except _ERRORS as error:
                fault = fault_of(error)
                if fault is Fault.DEFECT:
                    raise
                reason = f"{fault.value} ({_bounded(error)})"
                if fault is Fault.CREDENTIALS:
                    self._forget(client)
                continue
            receipts, refused, why = _read_results(receipts, response)
            lost, reason = lost + refused, why or reason
            if not receipts:
                break
        return lost + len(receipts), reason

    def close(self) -> None:
        """Give back what was received and never asked for, and report what is not yet reported."""
        self.release(self._take_checked())
        self._closed.set()
        self._undeleted.flush()
        self._unchanged.flush()
        if self._client is not None:
            self._client.close()

    # -- the client ------------------------------------------------------------------------------------------------

    def _connected(self) -> SQSClient:
        """The one client; it is thread-safe, making one is not."""
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    client = self._client = self._new_client()
        return client

    def _forget(self, client: SQSClient | None) -> None:
        """Let the next call make a new client: credentials from files and variables are read once per client."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _new_client(self) -> SQSClient:
        session = boto3.session.Session()
        self._region = self.region or _region_in(self.queue) or session.region_name or "us-east-1"
        client = session.client(
            "sqs",
            region_name=self._region,
            endpoint_url=self.endpoint_url or _endpoint_in(self.queue),
            config=Config(
                # botocore otherwise builds the string twice a request, 14 % of a call's time
                user_agent=f"flytelineage/{__version__}",
                max_pool_connections=self.receivers + 2,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=self.wait_seconds + 10,
                # One repetition hides a connection that was closed between two calls. The rest is ours: botocore
                # sleeps where nothing can stop it.
                retries={"mode": "standard", "total_max_attempts": self._sdk_attempts},
            ),
        )
        client.meta.events.register("response-received.sqs", _check_body)
        return client


def _check_body(response_dict: dict[str, Any] | None, parsed_response: dict[str, Any] | None, **_: Any) -> None:
    """Refuse a body that is no JSON: botocore takes it for an empty answer (a captive portal's page, a cut body).

    Raises:
        ResponseParserError: always for such a body; as an empty receive it would be repeated at once, for ever.
    """
    if response_dict is None or parsed_response is None:
        return
    if response_dict["status_code"] >= 300 or parsed_response.keys() != {"ResponseMetadata"}:
        return
    try:
        json.loads(response_dict["body"] or b"{}")
    except ValueError as error:
        message = "the answer is no JSON: is something between this host and SQS?"
        raise ResponseParserError(message) from error


_BatchCall = Callable[["SQSClient", str, list[str]], Any]


def _delete(client: SQSClient, url: str, receipts: list[str]) -> Any:
    return client.delete_message_batch(
        QueueUrl=url,
        Entries=[{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)],
    )


def _change_visibility(seconds: int) -> _BatchCall:
    def change(client: SQSClient, url: str, receipts: list[str]) -> Any:
        return client.change_message_visibility_batch(
            QueueUrl=url,
            Entries=[
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                for number, receipt in enumerate(receipts)
            ],
        )

    return change


def _read_results(receipts: list[str], response: Any) -> tuple[list[str], int, str]:
    """Sort a batch's results.

    Returns:
        The receipts to try again (SQS's fault, or no word on them), how many can never work, and one reason.
    """
    done = {entry["Id"] for entry in response.get("Successful", ())}
    refused: set[str] = set()
    reason = ""
    for entry in response.get("Failed", ()):
        reason = f"{entry.get('Code', 'no code')}: {_bounded(entry.get('Message', ''))}"
        if entry.get("SenderFault", False):
            refused.add(entry["Id"])
    again = [
        receipt for number, receipt in enumerate(receipts) if str(number) not in done and str(number) not in refused
    ]
    if again and not reason:
        reason = "SQS said nothing of them"
    return again, len(refused), reason


def _is_url(queue: str) -> bool:
    return "://" in queue


def _host_of(queue: str) -> str:
    if not _is_url(queue):
        return ""
    try:
        return urlsplit(queue).hostname or ""
    except ValueError:
        return ""


def _region_in(queue: str) -> str | None:
    """The region that a queue's URL names, in any of AWS's spellings."""
    host = _host_of(queue)
    if host == "queue.amazonaws.com":
        return "us-east-1"
    matched = _REGION_IN_HOST.search(host)
    return (matched["region"] or matched["legacy"]) if matched else None


def _endpoint_in(queue: str) -> str | None:
    """Where a queue's URL leads when that is not AWS itself."""
    host = _host_of(queue)
    if not host or _AWS_HOST.fullmatch(host):
        return None
    parts = urlsplit(queue)
    return f"{parts.scheme}://{parts.netloc}"


def _bounded(error: object) -> str:
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response.get("Error", {})
        error = f"{answer.get('Code', 'no code')}: {answer.get('Message', 'no message')}"
    return " ".join(str(error).split())[:300]
