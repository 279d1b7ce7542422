"""Storage: untrusted URIs, literal keys, listings, bounds, and what every fault becomes. S3 is moto over HTTP."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer
from traitlets import TraitError

from flytelineage.errors import FlyteLineageError, ObjectNotFoundError, ObjectUnreadableError, StorageUnavailableError
from flytelineage.storage import FileEntry, Storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ODD_KEYS = [
    "plain",
    "with space/and more",
    "100%",
    "a%20b",
    "%2e%2e/%2e%2e/etc/passwd",
    "x#y?z=1&w",
    "grüße/日本.parquet",
    "a:b",
    "back\\slash",
    "AWS Error NO_SUCH_KEY during HeadObject",
    "...",
    "s3:",
]

REFUSED = [
    ("file:///etc/passwd", "scheme"),
    ("FILE:///etc/passwd", "scheme"),
    ("http://169.254.169.254/latest/meta-data/", "scheme"),
    ("https://bucket.s3.amazonaws.com/key", "scheme"),
    ("ftp://bucket/key", "scheme"),
    ("/etc/passwd", "no scheme"),
    ("etc/passwd", "no scheme"),
    ("s3:bucket/key", "no scheme"),
    ("s3:/bucket/key", "no scheme"),
    ("", "no scheme"),
    ("://bucket/key", "scheme"),
    (" s3://bucket/key", "scheme"),
    ("s3://", "bucket"),
    ("s3:///etc/passwd", "bucket"),
    ("s3://../etc/passwd", "bucket"),
    ("s3://./etc/passwd", "bucket"),
    ("s3://%2e%2e/etc/passwd", "bucket"),
    ("s3://user:secret@host/key", "bucket"),
    ("s3://host:9000/key", "bucket"),
    ("s3://bucket", "no object"),
    ("s3://bucket/", "no object"),
    ("s3://bucket///", "no object"),
    ("s3://bucket/../../etc/passwd", "path segment"),
    ("s3://bucket/a/../b", "path segment"),
    ("s3://bucket/a/..", "path segment"),
    ("s3://bucket/./a", "path segment"),
    ("s3://bucket//a", "path segment"),
    ("s3://bucket/a//b", "path segment"),
    ("s3://bucket/a\x00b", "control"),
    ("s3://bucket/a\nb", "control"),
    ("s3://bucket/a\x7fb", "control"),
    ("s3://bucket/a\x9bb", "control"),
    ("s3://bucket/a\ud800b", "control"),
    ("s3://bucket/" + "x" * 1025, "bytes"),
    ("s3://bucket/" + "é" * 600, "bytes"),
    ("s3://bucket/" + "x" * 1_000_000, "longer"),
    ("gs://bucket/key", "not supported yet"),
    ("abfs://container@account.dfs.core.windows.net/key", "not supported yet"),
    ("abfss://container@account.dfs.core.windows.net/key", "not supported yet"),
]


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


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """URL of an S3 that is empty at first."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str) -> S3Client:
    """A client of that S3, with a bucket called ``bucket``."""
    client = boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="bucket")
    return client


@pytest.fixture
def storage(moto: str) -> Storage:
    """Storage on that S3."""
    return Storage(endpoint_url=moto)


class FaultyS3(ThreadingHTTPServer):
    """Answers as its script says, by method; counts requests by method."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, str] | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[str] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def storage(self, **options: Any) -> Storage:
        options = {"connect_timeout_seconds": 1, "request_timeout_seconds": 1, "max_attempts": 1, **options}
        return Storage(endpoint_url=self.url, **options)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        assert isinstance(self.server, FaultyS3)
        kind = "LIST" if "list-type=2" in self.path else self.command
        self.server.seen.append(kind)
        answer = self.server.answers[kind]
        if callable(answer):
            answer(self)
            return
        status, code = answer
        body = b"" if self.command == "HEAD" else _error_document(code)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        if status == 301:
            self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = _answer  # noqa: N815  (http.server's names)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""


def _error_document(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as scripted</Message></Error>".encode()


def _ok(size: int, body: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def _hang(handler: BaseHTTPRequestHandler) -> None:
    assert isinstance(handler.server, FaultyS3)
    handler.server.released.wait(30)
    handler.close_connection = True


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    """A scripted S3."""
    server = FaultyS3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A directory that stands for S3, with one bucket, next to a secret."""
    (tmp_path / "secret").write_bytes(b"secret")
    bucket = tmp_path / "objects" / "bucket"
    bucket.mkdir(parents=True)
    (bucket / "one").write_bytes(b"1")
    return bucket.parent


# -- untrusted URIs ----------------------------------------------------------------------------------------------------

_audited: list[str] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _audited is not None and (event in ("open", "os.scandir", "os.listdir") or event.startswith("socket.")):
        _audited.append(f"{event} {args!r}")


sys.addaudithook(_audit)


@pytest.fixture
def io_events() -> Iterator[list[str]]:
    """Every file and socket that this process touches from Python."""
    global _audited
    _audited = []
    yield _audited
    _audited = None


@pytest.mark.parametrize("method", ["read", "open", "files"])
@pytest.mark.parametrize(("uri", "reason"), REFUSED, ids=[repr(uri[:40]) for uri, _ in REFUSED])
def test_uri_that_is_not_allowed_is_refused_without_any_io(
    uri: str, reason: str, method: str, faulty: FaultyS3, io_events: list[str]
) -> None:
    storage = faulty.storage()
    io_events.clear()
    with pytest.raises(ObjectUnreadableError, match=reason) as caught:
        getattr(storage, method)(uri, *([10] if method == "files" else []))
    assert io_events == []
    assert faulty.seen == []
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    assert storage.reads == storage.bytes_read == 0


def test_no_scheme_is_allowed_when_the_list_is_empty(objects: Path) -> None:
    with pytest.raises(ObjectUnreadableError, match="not allowed"):
        Storage(allowed_schemes=[], objects=str(objects)).read("s3://bucket/one")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("s3://bucket/data/a", True),
        ("s3a://bucket/data/a", True),
        ("s3://bucket/data", True),
        ("s3://bucket/database/a", False),
        ("s3://bucket/a", False),
        ("s3://bucket2/data/a", False),
        ("s3://other/x", True),
        ("s3://other2/x", False),
    ],
)
def test_prefixes_count_by_whole_segments(uri: str, allowed: bool, objects: Path) -> None:
    storage = Storage(objects=str(objects), allowed_prefixes=["s3n://bucket/data/", "s3://other"])
    with pytest.raises(ObjectUnreadableError) as caught:
        storage.read(uri)
    assert isinstance(caught.value, ObjectNotFoundError) is allowed


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"allowed_schemes": ["http"]}, "write some of s3"),
        ({"allowed_prefixes": ["bucket/data"]}, "write s3://"),
        ({"objects": "/does/not/exist"}, "name the one"),
    ],
)
def test_options_that_cannot_work_say_what_to_write(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(TraitError, match=hint):
        Storage(**options)


# -- S3 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_are_taken_literally(key: str, s3: S3Client, storage: Storage) -> None:
    s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    assert storage.read(f"s3://bucket/{key}") == key.encode()
    assert storage.files(f"s3://bucket/{key}", 5) == [FileEntry(f"s3://bucket/{key}", len(key.encode()))]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_what_is_not_there_is_not_found_whatever_its_name_says(key: str, s3: S3Client, storage: Storage) -> None:
    for uri in (f"s3://bucket/none/{key}", f"s3://no-such-bucket/{key}"):
        with pytest.raises(ObjectNotFoundError):
            storage.read(uri)
        with pytest.raises(ObjectNotFoundError):
            storage.open(uri)
        with pytest.raises(ObjectNotFoundError):
            storage.files(uri, 5)


@pytest.mark.parametrize("uri", ["s3a://bucket/alias", "s3n://bucket/alias", "S3://bucket/alias", "s3://bucket/alias/"])
def test_other_spellings_of_s3_are_s3(uri: str, s3: S3Client, storage: Storage) -> None:
    s3.put_object(Bucket="bucket", Key="alias", Body=b"x")
    assert storage.read(uri) == b"x"
    assert storage.files(uri, 1) == [FileEntry("s3://bucket/alias", 1)]


def test_counters_count_what_was_read(s3: S3Client, storage: Storage) -> None:
    s3.put_object(Bucket="bucket", Key="counted", Body=bytes(range(100)))
    assert storage.read("s3://bucket/counted") == bytes(range(100))
    assert (storage.reads, storage.bytes_read) == (1, 100)
    with storage.open("s3://bucket/counted") as file:
        assert file.size() == 100
        assert file.read_at(10, 90) == bytes(range(90, 100))
        assert file.read_at(10, 5) == bytes(range(5, 15))
        assert file.read_at(10, 100) == b""
    assert (storage.reads, storage.bytes_read) == (3, 120)


def test_empty_object_is_read_as_empty(s3: S3Client, storage: Storage) -> None:
    s3.put_object(Bucket="bucket", Key="empty", Body=b"")
    assert storage.read("s3://bucket/empty") == b""


def test_object_that_is_too_large_is_refused_before_a_byte_is_read(faulty: FaultyS3) -> None:
    faulty.answers["HEAD"] = _ok(1001)
    with pytest.raises(ObjectUnreadableError, match="1001 bytes, more than Storage.max_object_bytes"):
        faulty.storage(max_object_bytes=1000).read("s3://bucket/large")
    assert faulty.seen == ["HEAD"]


def test_object_of_exactly_the_bound_is_read(s3: S3Client, moto: str) -> None:
    s3.put_object(Bucket="bucket", Key="bound", Body=b"x" * 1000)
    assert len(Storage(endpoint_url=moto, max_object_bytes=1000).read("s3://bucket/bound")) == 1000


def test_directory_lists_its_data_files_in_order(s3: S3Client, storage: Storage) -> None:
    names = ["b", "a/1", "a-1", "_SUCCESS", ".b.crc", "_delta/1", "c/.hidden/1", "é", "z/"]
    for name in names:
        s3.put_object(Bucket="bucket", Key=f"table/{name}", Body=b"12")
    s3.put_object(Bucket="bucket", Key="table-2/x", Body=b"1")
    s3.put_object(Bucket="bucket", Key="table", Body=b"a file of the directory's name")
    expected = [FileEntry(f"s3://bucket/table/{name}", 2) for name in ("a-1", "a/1", "b", "é")]
    assert storage.files("s3://bucket/table", 100) == expected
    assert storage.files("s3a://bucket/table/", 4) == expected
    assert storage.files("s3://bucket/table", 3) == expected[:3]
    assert storage.files("s3://bucket/table", 1) == expected[:1]


def test_listing_goes_on_over_pages_of_hidden_files(s3: S3Client, storage: Storage) -> None:
    for number in range(30):
        s3.put_object(Bucket="bucket", Key=f"pages/_{number:03}", Body=b"")
        s3.put_object(Bucket="bucket", Key=f"pages/x{number:03}", Body=b"")
    assert [entry.uri for entry in storage.files("s3://bucket/pages", 2)] == [
        "s3://bucket/pages/x000",
        "s3://bucket/pages/x001",
    ]
    assert len(storage.files("s3://bucket/pages", 2000)) == 30


def test_listing_of_nothing_but_hidden_files_is_bounded(faulty: FaultyS3) -> None:
    def page(handler: BaseHTTPRequestHandler) -> None:
        keys = "".join(f"<Contents><Key>dir/_{n}</Key><Size>1</Size></Contents>" for n in range(10))
        body = (
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            f"<NextContinuationToken>more</NextContinuationToken>{keys}</ListBucketResult>"
        ).encode()
        _ok(len(body), body)(handler)

    faulty.answers.update(LIST=page, HEAD=(404, ""))
    with pytest.raises(ObjectNotFoundError):
        faulty.storage().files("s3://bucket/dir", 10)
    assert faulty.seen.count("LIST") == 11


def test_file_is_found_when_the_bucket_may_not_be_listed(faulty: FaultyS3) -> None:
    faulty.answers.update(LIST=(403, "AccessDenied"), HEAD=_ok(7))
    assert faulty.storage().files("s3://bucket/file", 5) == [FileEntry("s3://bucket/file", 7)]


def test_directory_that_may_not_be_listed_is_unreadable_not_missing(faulty: FaultyS3) -> None:
    faulty.answers.update(LIST=(403, "AccessDenied"), HEAD=(404, ""))
    with pytest.raises(ObjectUnreadableError) as caught:
        faulty.storage().files("s3://bucket/dir", 5)
    assert not isinstance(caught.value, ObjectNotFoundError)


FAULTS: list[tuple[int, str, type[FlyteLineageError]]] = [
    (404, "NoSuchKey", ObjectNotFoundError),
    (404, "NoSuchBucket", ObjectNotFoundError),
    (403, "AccessDenied", ObjectUnreadableError),
    (403, "AllAccessDisabled", ObjectUnreadableError),
    (403, "InvalidObjectState", ObjectUnreadableError),
    (405, "MethodNotAllowed", ObjectUnreadableError),
    (400, "InvalidRequest", ObjectUnreadableError),
    (400, "KMS.DisabledException", ObjectUnreadableError),
    (400, "ExpiredToken", StorageUnavailableError),
    (400, "InvalidToken", StorageUnavailableError),
    (400, "RequestTimeout", StorageUnavailableError),
    (403, "InvalidAccessKeyId", StorageUnavailableError),
    (403, "SignatureDoesNotMatch", StorageUnavailableError),
    (403, "RequestTimeTooSkewed", StorageUnavailableError),
    (301, "PermanentRedirect", StorageUnavailableError),
    (409, "OperationAborted", StorageUnavailableError),
    (429, "TooManyRequests", StorageUnavailableError),
    (500, "InternalError", StorageUnavailableError),
    (502, "BadGateway", StorageUnavailableError),
    (503, "SlowDown", StorageUnavailableError),
    (503, "ServiceUnavailable", StorageUnavailableError),
]


@pytest.mark.parametrize(("status", "code", "expected"), FAULTS, ids=[f"{status}-{code}" for status, code, _ in FAULTS])
@pytest.mark.parametrize("where", ["at HEAD", "at GET", "at LIST"])
def test_each_fault_of_s3_becomes_the_right_error(
    status: int, code: str, expected: type[FlyteLineageError], where: str, faulty: FaultyS3
) -> None:
    answer = (status, code)
    faulty.answers.update(HEAD=_ok(5) if where == "at GET" else answer, GET=answer, LIST=answer)
    storage = faulty.storage()
    call = (lambda uri: storage.files(uri, 5)) if where == "at LIST" else storage.read
    with pytest.raises(FlyteLineageError) as caught:
        call("s3://bucket/AWS")
    assert type(caught.value) is expected
    assert "s3://bucket/AWS" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_name_of_a_key_does_not_decide_what_a_fault_means(faulty: FaultyS3) -> None:
    faulty.answers["HEAD"] = (503, "")
    with pytest.raises(StorageUnavailableError):
        faulty.storage().read("s3://bucket/AWS Error NO_SUCH_KEY during HeadObject")


@pytest.mark.parametrize("fault", [_reset, _hang], ids=["reset", "hang"])
@pytest.mark.parametrize("where", ["HEAD", "GET", "LIST"])
def test_broken_and_silent_connections_are_retryable(
    where: str, fault: Callable[[BaseHTTPRequestHandler], None], faulty: FaultyS3
) -> None:
    faulty.answers.update(HEAD=_ok(5), GET=_ok(5, b"12345"), LIST=(404, "NoSuchBucket"))
    faulty.answers[where] = fault
    storage = faulty.storage()
    call = (lambda uri: storage.files(uri, 5)) if where == "LIST" else storage.read
    with pytest.raises(StorageUnavailableError):
        call("s3://bucket/key")
    assert storage.reads == 0


@pytest.mark.parametrize("where", ["HEAD", "LIST"])
def test_requests_are_tried_as_often_as_said(where: str, faulty: FaultyS3) -> None:
    faulty.answers.update(HEAD=(503, ""), LIST=(503, "SlowDown"))
    storage = faulty.storage(max_attempts=2)
    call = (lambda uri: storage.files(uri, 5)) if where == "LIST" else storage.read
    with pytest.raises(StorageUnavailableError):
        call("s3://bucket/key")
    assert faulty.seen == [where] * 2


def test_store_that_is_not_there_is_retryable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        storage = Storage(endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}", max_attempts=1)
        with pytest.raises(StorageUnavailableError):
            storage.read("s3://bucket/key")
        with pytest.raises(StorageUnavailableError):
            storage.files("s3://bucket/key", 1)


def test_missing_credentials_are_retryable_and_are_found_once_they_are_there(
    s3: S3Client, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket="bucket", Key="later", Body=b"x")
    now = 0.0
    storage._clock = lambda: now
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        for method in (storage.read, storage.open, lambda uri: storage.files(uri, 1)):
            with pytest.raises(StorageUnavailableError, match="no AWS credentials"):
                method("s3://bucket/later")
    now = 61.0
    assert storage.read("s3://bucket/later") == b"x"


def test_anonymous_needs_no_credentials(s3: S3Client, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.create_bucket(Bucket="public", ACL="public-read")
    s3.put_object(Bucket="public", Key="dir/x", Body=b"x", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = Storage(endpoint_url=moto, anonymous=True)
    assert storage.read("s3://public/dir/x") == b"x"
    assert storage.files("s3://public/dir", 1) == [FileEntry("s3://public/dir/x", 1)]


def test_endpoint_may_come_from_the_environment(s3: S3Client, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="bucket", Key="by-env", Body=b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    assert Storage().read("s3://bucket/by-env") == b"x"
    assert Storage().files("s3://bucket/by-env", 1) == [FileEntry("s3://bucket/by-env", 1)]


# -- regions -----------------------------------------------------------------------------------------------------------


class _Regions:
    """Stands for S3's answer to "in which region is this bucket?"."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: dict[str, str] = {}

    def __call__(self, bucket: str) -> str:
        self.asked.append(bucket)
        if bucket not in self.known:
            raise OSError("no answer")  # noqa: EM101
        return self.known[bucket]


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> _Regions:
    """No look-up leaves this process."""
    double = _Regions()
    monkeypatch.setattr(pyarrow.fs, "resolve_s3_region", double)
    return double


def test_region_of_a_bucket_is_asked_once(regions: _Regions) -> None:
    regions.known = {"here": "eu-west-1", "there": "ap-south-1"}
    storage = Storage()
    assert [storage._region_of(bucket) for bucket in ("here", "there", "here")] == [
        "eu-west-1",
        "ap-south-1",
        "eu-west-1",
    ]
    assert regions.asked == ["here", "there"]


def test_unknown_region_falls_back_and_is_asked_again_after_a_minute(
    regions: _Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    now = 0.0
    storage = Storage()
    storage._clock = lambda: now
    assert storage._region_of("bucket") == "eu-central-1"
    now = 59.0
    assert storage._region_of("bucket") == "eu-central-1"
    assert regions.asked == ["bucket"]
    regions.known["bucket"] = "eu-west-1"
    now = 61.0
    assert storage._region_of("bucket") == "eu-west-1"


def test_region_is_not_asked_when_it_is_given_or_the_store_is_another(regions: _Regions) -> None:
    assert Storage(region="eu-west-3")._region_of("bucket") == "eu-west-3"
    assert Storage(endpoint_url="http://127.0.0.1:1")._region_of("bucket") == "us-east-1"
    assert regions.asked == []


def test_remembered_regions_are_bounded(regions: _Regions) -> None:
    storage = Storage()
    for number in range(2500):
        storage._region_of(f"bucket-{number}")
    assert len(storage._regions) <= 1000


# -- directories that stand for S3, and local files -------------------------------------------------------------------


@pytest.mark.parametrize("key", ODD_KEYS)
def test_objects_serves_keys_literally(key: str, objects: Path) -> None:
    path = objects / "bucket" / "odd" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.encode())
    storage = Storage(objects=str(objects))
    assert storage.read(f"s3a://bucket/odd/{key}") == key.encode()
    assert storage.files(f"s3://bucket/odd/{key}", 1) == [
        FileEntry(f"s3://bucket/odd/{key}", len(key.encode())),
    ]


def test_objects_lists_like_s3_and_does_not_follow_links(objects: Path) -> None:
    table = objects / "bucket" / "table"
    for name in ["b", "a/1", "a-1", "_SUCCESS", ".b.crc", "_delta/1", "c/.hidden/1", "é"]:
        (table / name).parent.mkdir(parents=True, exist_ok=True)
        (table / name).write_bytes(b"12")
    (table / "link").symlink_to(objects.parent / "secret")
    (table / "links").symlink_to(objects.parent)
    os.mkfifo(table / "pipe")
    storage = Storage(objects=str(objects))
    expected = [FileEntry(f"s3://bucket/table/{name}", 2) for name in ("a-1", "a/1", "b", "é")]
    assert storage.files("s3://bucket/table/", 100) == expected
    assert storage.files("s3://bucket/table", 2) == expected[:2]


@pytest.mark.parametrize("method", ["read", "open", "files"])
def test_links_do_not_lead_out_of_objects(method: str, objects: Path) -> None:
    bucket = objects / "bucket"
    (bucket / "link").symlink_to(objects.parent / "secret")
    (bucket / "up").symlink_to(objects.parent)
    (bucket / "loop").symlink_to(bucket / "loop")
    (objects / "linked-bucket").symlink_to(objects.parent)
    storage = Storage(objects=str(objects))
    for uri in ("s3://bucket/link", "s3://bucket/up/secret", "s3://linked-bucket/secret", "s3://bucket/loop"):
        with pytest.raises(ObjectUnreadableError) as caught:
            getattr(storage, method)(uri, *([10] if method == "files" else []))
        assert "secret'" not in str(caught.value).replace(uri, "")


def test_link_inside_objects_is_followed(objects: Path) -> None:
    (objects / "bucket" / "again").symlink_to(objects / "bucket" / "one")
    assert Storage(objects=str(objects)).read("s3://bucket/again") == b"1"


def test_objects_may_itself_be_a_link(objects: Path) -> None:
    link = objects.parent / "link"
    link.symlink_to(objects)
    assert Storage(objects=str(link)).read("s3://bucket/one") == b"1"


def test_objects_tells_what_is_missing_from_what_is_no_file(objects: Path) -> None:
    os.mkfifo(objects / "bucket" / "pipe")
    (objects / "bucket" / "empty").mkdir()
    storage = Storage(objects=str(objects))
    for uri in ("s3://bucket/none", "s3://none/one", "s3://bucket/one/below", "s3://bucket/empty/x"):
        with pytest.raises(ObjectNotFoundError):
            storage.read(uri)
    with pytest.raises(ObjectNotFoundError):
        storage.files("s3://bucket/empty", 1)
    for uri in ("s3://bucket/pipe", "s3://bucket/empty", "s3://bucket/" + "x" * 300):
        with pytest.raises(ObjectUnreadableError) as caught:
            storage.read(uri)
        assert not isinstance(caught.value, ObjectNotFoundError)


def test_file_is_read_only_where_it_is_allowed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a b%20").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    (data / "link").symlink_to(tmp_path / "secret")
    storage = Storage(allowed_schemes=["file"], allowed_prefixes=[f"file://{data}"])
    assert storage.read(f"file://{data}/a b%20") == b"x"
    assert storage.files(f"file://{data}", 5) == [FileEntry(f"file://{data}/a b%20", 1)]
    for uri in (f"file://{tmp_path}/secret", f"file://{data}/link", f"file://host{data}/x", f"file://{data}/../secret"):
        with pytest.raises(ObjectUnreadableError) as caught:
            storage.read(uri)
        assert not isinstance(caught.value, ObjectNotFoundError)


def test_counters_lose_nothing_between_threads(objects: Path) -> None:
    (objects / "bucket" / "ten").write_bytes(b"x" * 10)
    storage = Storage(objects=str(objects))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(storage.read, ["s3://bucket/ten"] * 400)) == {b"x" * 10}
    assert (storage.reads, storage.bytes_read) == (400, 4000)


def test_many_threads_share_one_store(s3: S3Client, storage: Storage) -> None:
    for number in range(20):
        s3.put_object(Bucket="bucket", Key=f"shared/{number}", Body=str(number).encode())
    uris = [f"s3://bucket/shared/{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(storage.read, uris)) == [str(number).encode() for number in range(20)]
    assert len(storage._filesystems) == 1
