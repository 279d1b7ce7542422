"""SQSSource over HTTP: against moto, and against a server that answers as scripted."""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import boto3
import botocore.exceptions
import botocore.session
import pytest
from botocore.parsers import ResponseParserError
from moto.server import ThreadedMotoServer

from flytelineage import __version__
from flytelineage.errors import ConfigurationError, CredentialsError, QueueNotFoundError
from flytelineage.sources.base import Message
from flytelineage.sources.sqs import Fault, SQSSource, _endpoint_in, _region_in, fault_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

QUEUE_URL = "http://127.0.0.1/123456789012/events"


class ManualClock:
    """Time that passes only by waiting; remembers each wait. ``limit`` waits set the event, so that nothing hangs."""

    def __init__(self, limit: int = 10_000) -> None:
        self.time = 1000.0
        self.waits: list[float] = []
        self.limit = limit
        self.before_wait: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def wait(self, event: Event, seconds: float) -> bool:
        self.before_wait()
        self.waits.append(seconds)
        self.time += seconds
        if len(self.waits) >= self.limit:
            event.set()
        return event.is_set()


class QuickSource(SQSSource):
    """Without botocore's own repetition, which sleeps."""

    _sdk_attempts = 1


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that are good for nothing, and none of this machine's own settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture
def moto() -> Iterator[str]:
    """URL of an SQS that is empty at first."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("sqs", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    for url in client.list_queues().get("QueueUrls", []):
        client.delete_queue(QueueUrl=url)
    client.close()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def sqs(moto: str) -> Iterator[SQSClient]:
    """A client of that SQS, with a queue called ``events``."""
    client = boto3.client("sqs", endpoint_url=moto, region_name="us-east-1")
    client.create_queue(QueueName="events")
    yield client
    client.close()


@pytest.fixture
def stop() -> Event:
    """Set when receiving is to end."""
    return Event()


def _send(sqs: SQSClient, bodies: Sequence[str]) -> None:
    url = sqs.get_queue_url(QueueName="events")["QueueUrl"]
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)


def _left(sqs: SQSClient) -> tuple[int, int]:
    """Messages that are visible and that are hidden."""
    url = sqs.get_queue_url(QueueName="events")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"]), int(attributes["ApproximateNumberOfMessagesNotVisible"])


# -- against moto ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "url"])
def test_messages_are_received_once_and_deleted(by: str, sqs: SQSClient, moto: str, stop: Event) -> None:
    bodies = {f"body {number} é" for number in range(25)}
    _send(sqs, sorted(bodies))
    queue = "events" if by == "name" else sqs.get_queue_url(QueueName="events")["QueueUrl"]
    source = SQSSource(queue=queue, region="us-east-1", endpoint_url=moto, wait_seconds=1)
    source.open()
    received: list[Message] = []
    while messages := source.receive(stop):
        assert 1 <= len(messages) <= source.batch_size == 10
        received += messages
    assert {message.body for message in received} == bodies
    assert len({message.message_id for message in received}) == 25
    assert _left(sqs) == (0, 25)
    source.acknowledge(received)
    source.acknowledge(received[:3])
    assert _left(sqs) == (0, 0)
    assert source.not_deleted == 0
    source.close()
    source.close()


def test_released_messages_come_back_at_once(sqs: SQSClient, moto: str, stop: Event) -> None:
    _send(sqs, [str(number) for number in range(12)])
    source = SQSSource(queue="events", endpoint_url=moto, wait_seconds=0)
    source.open()
    received = [*source.receive(stop), *source.receive(stop)]
    assert _left(sqs) == (0, 12)
    source.release(received)
    assert _left(sqs) == (12, 0)
    source.close()


def test_visibility_is_asked_for_and_extended(sqs: SQSClient, moto: str, stop: Event) -> None:
    _send(sqs, ["hidden"])
    source = SQSSource(queue="events", endpoint_url=moto, wait_seconds=0, visibility_timeout_seconds=1)
    assert source.visibility_timeout == 1.0
    source.open()
    (message,) = source.receive(stop)
    source.visibility_timeout_seconds = 1000
    assert source.visibility_timeout == 1000.0
    source.extend([message])
    # Past the first timeout the message is still hidden: a long poll of 2 s finds nothing.
    source.wait_seconds = 2
    assert source.receive(stop) == []
    assert _left(sqs) == (0, 1)
    source.close()


def test_several_threads_share_one_client(sqs: SQSClient, moto: str, stop: Event) -> None:
    _send(sqs, [str(number) for number in range(60)])
    source = SQSSource(queue="events", endpoint_url=moto, wait_seconds=0, receivers=4)
    source.open()
    received: list[str] = []

    def drain() -> None:
        while messages := source.receive(stop):
            received.extend(message.body for message in messages)
            source.acknowledge(messages)

    threads = [threading.Thread(target=drain, name=f"receiver-{number}") for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(received, key=int) == [str(number) for number in range(60)]
    assert _left(sqs) == (0, 0)
    source.close()


@pytest.mark.parametrize("queue", ["none", "{moto}/123456789012/none"])
def test_missing_queue_stops_the_start_in_one_sentence(queue: str, sqs: SQSClient, moto: str) -> None:
    source = SQSSource(queue=queue.format(moto=moto), region="eu-west-1", endpoint_url=moto)
    with pytest.raises(QueueNotFoundError) as caught:
        source.open()
    message = str(caught.value)
    assert source.queue in message
    assert "eu-west-1" in message
    assert "--sqs_queue" in message
    assert "\n" not in message
    source.close()


def test_url_of_an_emulator_needs_no_endpoint(sqs: SQSClient, moto: str, stop: Event) -> None:
    _send(sqs, ["body"])
    source = SQSSource(queue=f"{moto}/123456789012/events", wait_seconds=0)
    source.open()
    assert [message.body for message in source.receive(stop)] == ["body"]
    source.close()


# -- against a script --------------------------------------------------------------------------------------------------

Answer = dict[str, Any] | tuple[int, str] | Callable[[BaseHTTPRequestHandler], None]


class ScriptedSQS(ThreadingHTTPServer):
    """Answers each operation by its own list of answers, the last one for ever; keeps the requests.

    An answer is a dict (200), a status with an error code, or a function that does what it likes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.script: dict[str, list[Answer]] = {
            "GetQueueUrl": [{"QueueUrl": QUEUE_URL}],
            "GetQueueAttributes": [{"Attributes": {}}],
            "ReceiveMessage": [{}],
            "DeleteMessageBatch": [_all_done],
            "ChangeMessageVisibilityBatch": [_all_done],
        }
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.user_agents: set[str] = set()
        self.released = Event()

    def source(self, **options: Any) -> QuickSource:
        options = {
            "queue": "events",
            "region": "eu-west-1",
            "endpoint_url": self.url,
            "clock": ManualClock(),
            **options,
        }
        return QuickSource(**options)

    def seen(self, operation: str) -> list[dict[str, Any]]:
        return [request for name, request in self.requests if name == operation]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    request_body: dict[str, Any]

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, ScriptedSQS)
        self.request_body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        server.user_agents.add(self.headers["User-Agent"])
        server.requests.append((operation, self.request_body))
        answers = server.script[operation]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer(self)
        elif isinstance(answer, tuple):
            self.respond(answer[0], {"__type": f"com.amazonaws.sqs#{answer[1]}", "message": "as scripted"})
        else:
            self.respond(200, answer)

    def respond(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""


def _all_done(handler: BaseHTTPRequestHandler) -> None:
    _fail({})(handler)


def _fail(failures: dict[str, tuple[bool, str]], leave_out: Sequence[str] = ()) -> Callable[[Any], None]:
    """Let entries fail, by Id, with (SenderFault, Code); say nothing of others; the rest is done."""

    def answer(handler: _Handler) -> None:
        ids = [entry["Id"] for entry in handler.request_body["Entries"]]
        handler.respond(
            200,
            {
                "Successful": [{"Id": entry} for entry in ids if entry not in failures and entry not in leave_out],
                "Failed": [
                    {
                        "Id": entry,
                        "SenderFault": failures[entry][0],
                        "Code": failures[entry][1],
                        "Message": "as scripted",
                    }
                    for entry in ids
                    if entry in failures
                ],
            },
        )

    return answer


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"Messages": [')
    handler.close_connection = True


def _web_page(handler: BaseHTTPRequestHandler) -> None:
    body = b"<html>Sign in to this network</html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


ONE_MESSAGE: Answer = {"Messages": [{"Body": "body", "MessageId": "id", "ReceiptHandle": "receipt"}]}
MESSAGE = Message(body="body", message_id="id", receipt="receipt")


@pytest.fixture
def scripted() -> Iterator[ScriptedSQS]:
    """An SQS on which nothing ever happens, until told otherwise."""
    server = ScriptedSQS()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _actions(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.action)
        for record in caplog.records
        if hasattr(record, "action") and record.levelno >= logging.INFO
    ]


BEGIN = (logging.WARNING, "sqs_trouble")
END = (logging.INFO, "sqs_trouble_over")


def test_calls_carry_our_options_and_a_fixed_user_agent(scripted: ScriptedSQS, stop: Event) -> None:
    source = scripted.source(wait_seconds=7, visibility_timeout_seconds=33, batch_size=4)
    source.open()
    source.receive(stop)
    assert scripted.seen("GetQueueUrl") == [{"QueueName": "events"}]
    (request,) = scripted.seen("ReceiveMessage")
    assert request == {
        "QueueUrl": QUEUE_URL,
        "MaxNumberOfMessages": 4,
        "WaitTimeSeconds": 7,
        "VisibilityTimeout": 33,
    }
    assert {agent.split()[0] for agent in scripted.user_agents} == {f"flytelineage/{__version__}"}
    config = cast(Any, source._client).meta.config
    assert config.read_timeout > 7 + 5
    assert config.max_pool_connections >= source.receivers + 2
    source.close()


START_FAULTS: list[tuple[str, int, str, type[ConfigurationError]]] = [
    ("GetQueueUrl", 400, "QueueDoesNotExist", QueueNotFoundError),
    ("GetQueueUrl", 400, "AWS.SimpleQueueService.NonExistentQueue", QueueNotFoundError),
    ("GetQueueUrl", 400, "AccessDeniedException", QueueNotFoundError),
    ("GetQueueUrl", 403, "AccessDenied", QueueNotFoundError),
    ("GetQueueAttributes", 400, "QueueDoesNotExist", QueueNotFoundError),
    ("GetQueueUrl", 403, "ExpiredToken", CredentialsError),
    ("GetQueueUrl", 400, "ExpiredTokenException", CredentialsError),
    ("GetQueueUrl", 403, "InvalidClientTokenId", CredentialsError),
    ("GetQueueUrl", 400, "UnrecognizedClientException", CredentialsError),
    ("GetQueueUrl", 403, "SignatureDoesNotMatch", CredentialsError),
    ("GetQueueUrl", 400, "InvalidSignatureException", CredentialsError),
    ("GetQueueAttributes", 400, "ExpiredTokenException", CredentialsError),
    ("GetQueueUrl", 400, "UnsupportedOperation", ConfigurationError),
    ("GetQueueUrl", 404, "UnknownOperationException", ConfigurationError),
]


@pytest.mark.parametrize(("operation", "status", "code", "expected"), START_FAULTS)
def test_what_a_person_must_mend_stops_the_start(
    operation: str, status: int, code: str, expected: type[ConfigurationError], scripted: ScriptedSQS
) -> None:
    scripted.script[operation] = [(status, code)]
    source = scripted.source()
    with pytest.raises(ConfigurationError) as caught:
        source.open()
    assert type(caught.value) is expected
    for part in ("'events'", "eu-west-1", ": "):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    source.close()


def test_missing_credentials_stop_the_start(scripted: ScriptedSQS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    source = scripted.source()
    with pytest.raises(CredentialsError, match="'events' in region eu-west-1.*AWS_PROFILE"):
        source.open()
    assert scripted.requests == []


def test_missing_profile_stops_the_start(scripted: ScriptedSQS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody.*AWS profile"):
        scripted.source().open()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"queue": ""}, "--sqs_queue=NAME_OR_URL"),
        ({"queue": "arn:aws:sqs:eu-west-1:123456789012:events"}, "is an ARN"),
        ({"queue": "https://sqs.eu-west-1.amazonaws.com/1/events", "region": "us-east-1"}, "in region eu-west-1"),
        ({"endpoint_url": "no url"}, "endpoint_url"),
        ({"region": "no region"}, "aws_region"),
    ],
)
def test_options_that_cannot_work_stop_the_start(options: dict[str, Any], hint: str, scripted: ScriptedSQS) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        scripted.source(**options).open()
    assert scripted.requests == []


def test_queue_whose_attributes_are_secret_is_used_and_nothing_received_is_lost(
    scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["GetQueueAttributes"] = [(403, "AccessDenied")]
    scripted.script["ReceiveMessage"] = [ONE_MESSAGE, {}]
    source = scripted.source(queue=f"{scripted.url}/123456789012/events")
    source.open()
    assert scripted.seen("ReceiveMessage")[0]["WaitTimeSeconds"] == 0
    assert source.receive(stop) == [MESSAGE]
    assert source.receive(stop) == []
    source.close()
    assert scripted.seen("ChangeMessageVisibilityBatch") == []
    assert _actions(caplog) == []


def test_message_received_by_the_check_is_given_back_when_nobody_asks_for_it(scripted: ScriptedSQS) -> None:
    scripted.script["GetQueueAttributes"] = [(403, "AccessDenied")]
    scripted.script["ReceiveMessage"] = [ONE_MESSAGE]
    source = scripted.source()
    source.open()
    source.close()
    (request,) = scripted.seen("ChangeMessageVisibilityBatch")
    assert request["Entries"] == [{"Id": "0", "ReceiptHandle": "receipt", "VisibilityTimeout": 0}]


def test_queue_that_may_not_be_received_from_stops_the_start(scripted: ScriptedSQS) -> None:
    scripted.script["GetQueueAttributes"] = [(403, "AccessDenied")]
    scripted.script["ReceiveMessage"] = [(403, "AccessDenied")]
    source = scripted.source()
    with pytest.raises(QueueNotFoundError, match=r"denied.*sqs:ReceiveMessage"):
        source.open()
    source.close()


TRANSIENT: dict[str, Answer] = {
    "throttled": (400, "RequestThrottled"),
    "throttled by KMS": (400, "KmsThrottled"),
    "too many in flight": (403, "OverLimit"),
    "429": (429, "x"),
    "500": (500, "InternalFailure"),
    "503": (503, "ServiceUnavailable"),
    "reset": _reset,
    "cut off": _cut,
    "a captive portal": _web_page,
}


@pytest.mark.parametrize("answer", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_start_does_not_fail_for_what_passes(
    answer: Answer, scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["GetQueueUrl"] = [answer, answer, {"QueueUrl": QUEUE_URL}]
    scripted.script["ReceiveMessage"] = [ONE_MESSAGE]
    caplog.set_level(logging.INFO)
    source = scripted.source()
    source.open()
    source.acknowledge([MESSAGE])
    assert source.not_deleted == 1
    assert source.receive(stop) == [MESSAGE]
    source.close()
    assert [action for action in _actions(caplog) if action[1] != "sqs_not_deleted"] == [BEGIN, END]


def test_start_without_a_network_goes_on_trying(stop: Event, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(limit=50)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        source = QuickSource(queue="events", clock=clock, endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        source.open()
        assert source.receive(stop) == []
    source.close()
    assert len(clock.waits) == 50
    assert _actions(caplog) == [BEGIN]


RUNNING: dict[str, Answer] = {
    **TRANSIENT,
    "expired": (400, "ExpiredTokenException"),
    "deleted": (400, "QueueDoesNotExist"),
    "denied": (403, "AccessDenied"),
    "unknown": (400, "SomethingNew"),
}


@pytest.mark.parametrize("answer", RUNNING.values(), ids=RUNNING.keys())
def test_receiving_goes_on_after_any_fault_and_says_so_once(
    answer: Answer, scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["ReceiveMessage"] = [*[answer] * 8, ONE_MESSAGE]
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    source = scripted.source(clock=clock)
    source.open()
    began = clock.time
    assert source.receive(stop) == [MESSAGE]
    source.close()
    assert _actions(caplog) == [BEGIN, END]
    ended = caplog.records[-1].getMessage()
    assert f"after {clock.time - began:.0f} s and 8 failed tries" in ended
    assert caplog.text.count("queue 'events' in region eu-west-1") == 2
    assert len(clock.waits) == 8


def test_backoff_grows_has_jitter_and_a_cap(scripted: ScriptedSQS, stop: Event) -> None:
    scripted.script["ReceiveMessage"] = [(400, "RequestThrottled")]
    clock = ManualClock(limit=200)
    source = scripted.source(clock=clock)
    source.open()
    assert source.receive(stop) == []
    source.close()
    for attempt, seconds in enumerate(clock.waits):
        assert 0.0 <= seconds <= min(30.0, 0.5 * 2**attempt)
    assert max(clock.waits) > 20.0
    assert len(set(clock.waits)) > 190


def test_stop_ends_a_wait_between_tries(scripted: ScriptedSQS, stop: Event) -> None:
    scripted.script["ReceiveMessage"] = [(400, "RequestThrottled")]
    clock = ManualClock()
    clock.before_wait = stop.set
    source = scripted.source(clock=clock)
    source.open()
    assert source.receive(stop) == []
    assert len(clock.waits) == 1
    source.receive(stop)
    source.close()
    assert len(scripted.seen("ReceiveMessage")) == 1


def test_another_kind_of_fault_is_news_once(
    scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    throttled: Answer = (400, "RequestThrottled")
    expired: Answer = (400, "ExpiredTokenException")
    scripted.script["ReceiveMessage"] = [*[throttled, expired] * 5, {}]
    caplog.set_level(logging.INFO)
    source = scripted.source()
    source.open()
    source.receive(stop)
    source.close()
    assert _actions(caplog) == [BEGIN, BEGIN, END]


def test_trouble_that_comes_and_goes_does_not_fill_the_log(
    scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    throttled: Answer = (400, "RequestThrottled")
    nothing: Answer = {}
    scripted.script["ReceiveMessage"] = [*[throttled, nothing] * 200, nothing]
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    source = scripted.source(clock=clock)
    source.open()
    for _ in range(200):
        source.receive(stop)
    clock.time += 61
    source.receive(stop)
    source.close()
    assert _actions(caplog) == [BEGIN, END, BEGIN, END]


def test_call_from_before_the_trouble_does_not_end_it(scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    source = scripted.source(clock=clock)
    source._trouble.failed(Fault.NETWORK, OSError())
    source._trouble.worked(began=clock.time - 5)
    assert _actions(caplog) == [BEGIN]
    source._trouble.worked(began=clock.time + 1)
    assert _actions(caplog) == [BEGIN, END]


def test_all_receivers_share_one_warning(scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture) -> None:
    scripted.script["ReceiveMessage"] = [(503, "ServiceUnavailable")]
    stop = Event()
    source = scripted.source(clock=ManualClock(limit=40), receivers=4)
    source.open()
    threads = [threading.Thread(target=source.receive, args=(stop,), name=f"receiver-{n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    source.close()
    assert _actions(caplog) == [BEGIN]


def test_renewed_credentials_are_found(scripted: ScriptedSQS, stop: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    authorizations: list[str] = []

    def expired_unless_renewed(handler: Any) -> None:
        authorizations.append(handler.headers["Authorization"])
        if "Credential=renewed/" in authorizations[-1]:
            handler.respond(200, ONE_MESSAGE)
        else:
            handler.respond(400, {"__type": "com.amazonaws.sqs#ExpiredTokenException"})

    scripted.script["ReceiveMessage"] = [expired_unless_renewed]
    clock = ManualClock(limit=10)
    source = scripted.source(clock=clock)
    source.open()
    clock.before_wait = lambda: monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed") if len(clock.waits) == 3 else None
    assert source.receive(stop) == [MESSAGE]
    assert len(authorizations) == 5
    source.close()


def test_silent_endpoint_is_given_up_and_tried_again(
    scripted: ScriptedSQS, stop: Event, caplog: pytest.LogCaptureFixture
) -> None:
    def hang(handler: BaseHTTPRequestHandler) -> None:
        scripted.released.wait(30)
        handler.close_connection = True

    scripted.script["ReceiveMessage"] = [hang, ONE_MESSAGE]
    source = scripted.source()
    source.open()
    client = cast(Any, source._client)
    client._endpoint.http_session._timeout = 0.2
    client._endpoint.http_session._manager.connection_pool_kw["timeout"] = 0.2
    client._endpoint.http_session._manager.clear()
    assert source.receive(stop) == [MESSAGE]
    source.close()
    assert _actions(caplog)[0] == BEGIN


# -- batches -----------------------------------------------------------------------------------------------------------


def _messages(count: int) -> list[Message]:
    return [Message(body="b", message_id=f"id-{number}", receipt=f"receipt-{number}") for number in range(count)]


def _receipts(request: dict[str, Any]) -> list[str]:
    return [entry["ReceiptHandle"] for entry in request["Entries"]]


@pytest.mark.parametrize(("count", "calls"), [(0, []), (1, [1]), (10, [10]), (11, [10, 1]), (25, [10, 10, 5])])
def test_deletes_are_chunked(count: int, calls: list[int], scripted: ScriptedSQS) -> None:
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(count))
    requests = scripted.seen("DeleteMessageBatch")
    assert [len(request["Entries"]) for request in requests] == calls
    assert [receipt for request in requests for receipt in _receipts(request)] == [
        message.receipt for message in _messages(count)
    ]
    source.close()


def test_entries_that_failed_by_sqs_are_tried_again_alone(
    scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["DeleteMessageBatch"] = [
        _fail({"2": (False, "InternalError"), "4": (False, "InternalError")}, leave_out=["5"]),
        _fail({"1": (False, "InternalError")}),
        _all_done,
    ]
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(6))
    assert [_receipts(request) for request in scripted.seen("DeleteMessageBatch")] == [
        [f"receipt-{number}" for number in range(6)],
        ["receipt-2", "receipt-4", "receipt-5"],
        ["receipt-4"],
    ]
    assert source.not_deleted == 0
    assert _actions(caplog) == []
    source.close()


def test_entries_that_go_on_failing_are_counted_after_three_tries(
    scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["DeleteMessageBatch"] = [_fail({"0": (False, "InternalError")}, leave_out=["0"])]
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(3))
    assert [len(request["Entries"]) for request in scripted.seen("DeleteMessageBatch")] == [3, 1, 1]
    assert source.not_deleted == 1
    assert _actions(caplog) == [(logging.WARNING, "sqs_not_deleted")]
    source.close()


def test_entries_that_failed_by_us_are_not_tried_again(scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture) -> None:
    scripted.script["DeleteMessageBatch"] = [_fail({"0": (True, "ReceiptHandleIsInvalid")})]
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(3))
    assert len(scripted.seen("DeleteMessageBatch")) == 1
    assert source.not_deleted == 1
    assert "ReceiptHandleIsInvalid" in caplog.text
    source.close()


@pytest.mark.parametrize("answer", RUNNING.values(), ids=RUNNING.keys())
def test_call_that_fails_whole_is_tried_three_times_and_then_left(answer: Answer, scripted: ScriptedSQS) -> None:
    scripted.script["DeleteMessageBatch"] = [answer]
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(12))
    assert [len(request["Entries"]) for request in scripted.seen("DeleteMessageBatch")] == [10] * 3 + [2] * 3
    assert source.not_deleted == 12
    source.close()


@pytest.mark.parametrize("answer", RUNNING.values(), ids=RUNNING.keys())
def test_call_that_fails_once_is_made_good(answer: Answer, scripted: ScriptedSQS) -> None:
    scripted.script["DeleteMessageBatch"] = [answer, _all_done]
    source = scripted.source()
    source.open()
    source.acknowledge(_messages(2))
    assert source.not_deleted == 0
    source.close()


def test_undeleted_messages_are_reported_once_a_minute_and_none_is_left_out(
    scripted: ScriptedSQS, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script["DeleteMessageBatch"] = [_fail({"0": (True, "ReceiptHandleIsInvalid")})]
    clock = ManualClock()
    source = scripted.source(clock=clock)
    source.open()
    for _ in range(100):
        source.acknowledge(_messages(1))
    clock.time += 61
    source.acknowledge(_messages(1))
    source.acknowledge(_messages(1))
    source.close()
    counts = [getattr(record, "count", None) for record in caplog.records if hasattr(record, "action")]
    assert counts == [1, 100, 1]
    assert source.not_deleted == 102


def test_extend_and_release_ask_for_the_right_times_and_never_raise(scripted: ScriptedSQS) -> None:
    source = scripted.source(visibility_timeout_seconds=45)
    source.open()
    source.extend(_messages(12))
    source.release(_messages(1))
    requests = scripted.seen("ChangeMessageVisibilityBatch")
    assert [[entry["VisibilityTimeout"] for entry in request["Entries"]] for request in requests] == [
        [45] * 10,
        [45] * 2,
        [0],
    ]
    scripted.requests.clear()
    scripted.script["ChangeMessageVisibilityBatch"] = [(400, "QueueDoesNotExist")]
    source.extend(_messages(1))
    assert len(scripted.seen("ChangeMessageVisibilityBatch")) == 3
    source.release(_messages(1))
    assert len(scripted.seen("ChangeMessageVisibilityBatch")) == 4
    source.close()


# -- where a queue is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "region", "endpoint"),
    [
        ("events", None, None),
        ("https://sqs.eu-west-1.amazonaws.com/1/events", "eu-west-1", None),
        ("https://sqs.us-gov-west-1.amazonaws.com/1/events", "us-gov-west-1", None),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/events", "cn-north-1", None),
        ("https://sqs-fips.us-east-2.amazonaws.com/1/events", "us-east-2", None),
        ("https://eu-central-1.queue.amazonaws.com/1/events", "eu-central-1", None),
        ("https://queue.amazonaws.com/1/events", "us-east-1", None),
        ("https://sqs.ap-southeast-2.api.aws/1/events", "ap-southeast-2", None),
        (
            "https://vpce-0a1b-2c.sqs.eu-west-3.vpce.amazonaws.com/1/events",
            "eu-west-3",
            "https://vpce-0a1b-2c.sqs.eu-west-3.vpce.amazonaws.com",
        ),
        (
            "http://sqs.eu-west-1.localhost.localstack.cloud:4566/0/events",
            "eu-west-1",
            "http://sqs.eu-west-1.localhost.localstack.cloud:4566",
        ),
        ("http://localhost:4566/0/events", None, "http://localhost:4566"),
        ("http://[::1/0/events", None, None),
    ],
)
def test_region_and_endpoint_of_a_queue(queue: str, region: str | None, endpoint: str | None) -> None:
    assert _region_in(queue) == region
    assert _endpoint_in(queue) == endpoint


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({"region": "eu-west-1"}, "eu-west-2", "eu-west-1"),
        ({"queue": "https://sqs.eu-west-3.amazonaws.com/1/events"}, "eu-west-2", "eu-west-3"),
        ({}, "eu-west-2", "eu-west-2"),
        ({}, None, "us-east-1"),
    ],
)
def test_region_comes_from_option_url_chain_and_default(
    options: dict[str, Any], environment: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        monkeypatch.setenv("AWS_DEFAULT_REGION", environment)
    source = SQSSource(**{"queue": "events", **options})
    client = source._connected()
    assert client.meta.region_name == expected
    assert f"in region {expected}" in source.described
    source.close()


# -- the edge ----------------------------------------------------------------------------------------------------------

_ROOTS = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, botocore.exceptions.EventStreamError)


def _botocore_errors() -> list[type[Exception]]:
    return [
        cls
        for _, cls in inspect.getmembers(botocore.exceptions, inspect.isclass)
        if issubclass(cls, Exception)
        and not issubclass(cls, Warning)
        and cls not in _ROOTS
        and cls.__module__.startswith("botocore")
    ]


@pytest.mark.parametrize("cls", [*_botocore_errors(), ResponseParserError], ids=lambda cls: cls.__name__)
def test_every_exception_of_botocore_has_a_meaning(cls: type[Exception]) -> None:
    assert fault_of(cls.__new__(cls)) is not Fault.UNKNOWN


def _client_error(code: str, status: int) -> botocore.exceptions.ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(response, "ReceiveMessage")


def _modelled_codes() -> list[str]:
    model = botocore.session.get_session().get_service_model("sqs")
    return [shape.name for shape in model.error_shapes]


@pytest.mark.parametrize("code", _modelled_codes())
def test_every_error_of_the_service_model_has_a_meaning(code: str) -> None:
    # A status that means nothing: only the code can decide.
    assert fault_of(_client_error(code, 0)) is not Fault.UNKNOWN


def test_roots_alone_are_unknown() -> None:
    assert fault_of(botocore.exceptions.BotoCoreError()) is Fault.UNKNOWN
    assert fault_of(_client_error("", 0)) is Fault.UNKNOWN


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_client_error("AWS.SimpleQueueService.NonExistentQueue", 400), Fault.QUEUE),
        (_client_error("KMS.ThrottlingException", 400), Fault.THROTTLED),
        (_client_error("ExpiredToken", 403), Fault.CREDENTIALS),
        (_client_error("New", 403), Fault.DENIED),
        (_client_error("New", 500), Fault.UNAVAILABLE),
        (_client_error("New", 429), Fault.THROTTLED),
        (_client_error("New", 404), Fault.REQUEST),
        (botocore.exceptions.NoCredentialsError(), Fault.CREDENTIALS),
        (botocore.exceptions.ProfileNotFound(profile="x"), Fault.CONFIGURATION),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), Fault.NETWORK),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), Fault.NETWORK),
        (botocore.exceptions.InvalidRegionError(region_name="x"), Fault.CONFIGURATION),
        (botocore.exceptions.ParamValidationError(report="x"), Fault.DEFECT),
    ],
    ids=repr,
)
def test_the_most_specific_meaning_wins(error: Exception, expected: Fault) -> None:
    assert fault_of(error) is expected
