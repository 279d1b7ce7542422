"""An AWS of our own: moto's server in one process per test session, spoken to through real HTTP.

SNS puts the envelopes around the messages, as it does in AWS, and SQS delivers them; S3 has the recorded objects.
Loopback only. moto looks through the whole queue at every receive: keep queues at some hundred messages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from tests.support.corpus import Published, Publisher, Recording
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""What a process needs to speak to the emulator; nothing of the developer's own account is left."""


@dataclass
class Queue:
    """An SQS queue behind an SNS topic."""

    url: str
    topic: str


@dataclass
class AwsEmulator:
    """The emulator's end point, and what a FlyteAdmin and a person do with it."""

    endpoint: str
    _numbers: Iterator[int] = field(default_factory=count)
    _buckets: set[str] = field(default_factory=set)
    _uploaded: set[tuple[str, str]] = field(default_factory=set)

    def queue(self, *, raw: bool = False, visibility: int = 30) -> Queue:
        """Make a topic and the queue that is subscribed to it.

        Args:
            raw: without SNS's envelope ("raw message delivery").
            visibility: seconds until a received message comes back.
        """
        number = next(self._numbers)
        topic = self.sns.create_topic(Name=f"topic-{number}")["TopicArn"]
        url = self.sqs.create_queue(QueueName=f"queue-{number}", Attributes={"VisibilityTimeout": str(visibility)})
        attributes = self.sqs.get_queue_attributes(QueueUrl=url["QueueUrl"], AttributeNames=["QueueArn"])["Attributes"]
        self.sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=attributes["QueueArn"],
            Attributes={"RawMessageDelivery": str(raw).lower()},
        )
        return Queue(url["QueueUrl"], topic)

    def publish(self, queue: Queue, messages: Iterable[Published]) -> int:
        """Publish messages to the queue's topic, as FlyteAdmin does; returns their number."""
        waiting = list(messages)
        for start in range(0, len(waiting), 10):
            answer = self.sns.publish_batch(
                TopicArn=queue.topic,
                PublishBatchRequestEntries=[
                    {"Id": str(number), "Subject": message.subject, "Message": message.message}
                    for number, message in enumerate(waiting[start : start + 10])
                ],
            )
            assert not answer["Failed"], answer["Failed"]
        return len(waiting)

    def record(self, queue: Queue, recordings: Iterable[Recording], publishers: Sequence[Publisher]) -> int:
        """Upload the recordings' objects and publish their messages; returns the number of messages."""
        total = 0
        for recording in recordings:
            self.upload(recording)
            for publisher in publishers:
                total += self.publish(queue, recording.published(publisher))
        return total

    def upload(self, recording: Recording) -> None:
        """Put the recording's objects into S3, unless they are there."""
        for item in recording.objects():
            if (item.bucket, item.key) in self._uploaded:
                continue
            if item.bucket not in self._buckets:
                self.s3.create_bucket(Bucket=item.bucket)
                self._buckets.add(item.bucket)
            self.s3.put_object(Bucket=item.bucket, Key=item.key, Body=item.body)
            self._uploaded.add((item.bucket, item.key))

    def depth(self, queue: Queue) -> int:
        """Messages that are not deleted: waiting, or received and hidden."""
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])["Attributes"]
        return int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"])

    @cached_property
    def sns(self) -> SNSClient:
        """A client of SNS."""
        client: SNSClient = self._client("sns")
        return client

    @cached_property
    def sqs(self) -> SQSClient:
        """A client of SQS."""
        client: SQSClient = self._client("sqs")
        return client

    @cached_property
    def s3(self) -> S3Client:
        """A client of S3."""
        client: S3Client = self._client("s3")
        return client

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )


@contextmanager
def emulator() -> Iterator[AwsEmulator]:
    """Start the emulator on a port that the system chooses; kill it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "moto.log")
        with said.open("wb") as output:
            server = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("moto_server.py"), "-H", "127.0.0.1", "-p", "0"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"},
            )
        try:
            endpoint = _wait_for(server, said)
            yield AwsEmulator(endpoint)
        finally:
            server.kill()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], said: Path) -> str:
    """The end point, as soon as the server answers."""
    found: list[str] = []

    def answers() -> bool:
        text = said.read_text(errors="replace")
        assert server.poll() is None, text
        if match := re.search(r"Running on (http://127\.0\.0\.1:\d+)", text):
            try:
                with urllib.request.urlopen(f"{match[1]}/moto-api/data.json", timeout=5) as answer:
                    found[:] = [match[1]]
                    return bool(answer.status == 200)
            except OSError:
                return False
        return False

    wait_until(answers, 60, "the AWS emulator answers")
    return found[0]
