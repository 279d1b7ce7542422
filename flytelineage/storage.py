"""Object stores by URI, inside what is allowed: literal maps are read whole, data files by their tail.

URIs come from events and are untrusted. :meth:`Storage.read`, :meth:`Storage.open` and :meth:`Storage.files` first
check scheme, form and prefix, and touch nothing when one of these is wrong. What passes is taken literally: ``%``,
``#``, ``?`` and spaces are characters of the key, because Flyte writes raw keys.

Bytes come through ``pyarrow.fs``. Listing S3 is boto3's part: pyarrow cannot stop a listing before its end, and a
prefix named in an event may hold millions of objects. boto3 also asks once more when S3 refuses a ``HEAD``, whose
answer has no body, to tell "you may not read this" from "your credentials have expired".
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from traitlets import Bool, Float, Int, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from flytelineage.errors import FlyteLineageError, ObjectNotFoundError, ObjectUnreadableError, StorageUnavailableError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READABLE_SCHEMES = ("s3", "gs", "abfs", "abfss", "file")
"""What ``allowed_schemes`` may name."""

_ALIASES = {"s3a": "s3", "s3n": "s3"}
_NOT_YET = ("gs", "abfs", "abfss")
_MAX_URI_CHARACTERS = 4096
_MAX_S3_KEY_BYTES = 1024
"""S3's own limit, https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html."""
_SHOWN_CHARACTERS = 200
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""Older buckets have capitals and underscores. No ``@``, ``:`` or ``%``: nothing but a name."""
_PAGE = 1000
"""Keys in one answer of ListObjectsV2, at most."""
_PAGES_OF_SKIPPED = 10
"""Pages that a listing may spend on names that are no data, on top of what the limit needs."""
_REMEMBERED_BUCKETS = 1000
_FAILED_LOOKUP_SECONDS = 60.0
"""How long a failed look-up of a bucket's region or of credentials is believed."""

_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "404"})
_OUR_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_REFUSED_STATUS = frozenset({400, 401, 403, 405})
"""Answers about this request. Everything else that is no 404 is about the moment: it may be different later."""

_AWS_ERROR = re.compile(r"AWS Error (?P<name>[A-Z_]+)(?: \(HTTP status (?P<status>\d+)\))? during")
_PYARROW_NOT_FOUND = frozenset({"NO_SUCH_KEY", "NO_SUCH_BUCKET", "RESOURCE_NOT_FOUND"})
# INTERNAL_FAILURE too: pyarrow receives into a buffer of the range's size, and loses the answer to a GET that was
# refused with more bytes than that ("Failed to flush response stream").
_PYARROW_REFUSED = frozenset(
    {
        "ACCESS_DENIED",
        "INTERNAL_FAILURE",
        "INVALID_ACCESS_KEY_ID",
        "INVALID_CLIENT_TOKEN_ID",
        "INVALID_OBJECT_STATE",
        "INVALID_SIGNATURE",
        "MISSING_AUTHENTICATION_TOKEN",
        "REQUEST_EXPIRED",
        "SIGNATURE_DOES_NOT_MATCH",
        "UNRECOGNIZED_CLIENT",
        "VALIDATION",
    }
)


def shown(uri: str) -> str:
    """A URI as error texts and logs may carry it: quoted, control characters escaped, at most 200 characters of it."""
    text = uri if len(uri) <= _SHOWN_CHARACTERS else f"{uri[:_SHOWN_CHARACTERS]}..."
    return repr(text)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in a store.

    Attributes:
        uri: where it is, openable as it stands.
        size: bytes.
    """

    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class _Location:
    """A checked URI. ``bucket`` is empty for a local file, whose ``key`` is its absolute path."""

    scheme: str
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.bucket else f"{self.scheme}://{self.key}"


class _CountedFile(io.RawIOBase):
    """What pyarrow reads through: counts bytes, and maps the store's errors where they happen.

    A reader that wants ranges asks for ranges; nothing is read ahead.
    """

    def __init__(self, storage: Storage, location: _Location, file: pa.NativeFile) -> None:
        super().__init__()
        self._storage = storage
        self._location = location
        self._file = file
        self._position = 0
        self.size: int = file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        with self._storage._mapped(self._location):
            data: bytes = self._file.read_at(wanted, self._position)
        self._storage._count(len(data))
        self._position += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Storage(LoggingConfigurable):
    """Reads objects by URI; may be used by many threads at once.

    Every error is one of three, whatever the store said:
    :class:`~flytelineage.errors.ObjectNotFoundError` (there is nothing),
    :class:`~flytelineage.errors.ObjectUnreadableError` (not allowed, not permitted, too large: it stays so) and
    :class:`~flytelineage.errors.StorageUnavailableError` (network, throttling, 5xx, time-outs, a wrong region, and
    AWS credentials that are missing, expired or invalid: those are ours, not the object's, and somebody can mend
    them. Giving up would make lineage poorer for good). S3 says 403 for an object that is not there when the
    credentials may not list the bucket; that is unreadable.
    """

    allowed_schemes = List(
        Unicode(),
        default_value=["s3", "gs", "abfs", "abfss"],
        help=(
            "URI schemes that may be read: of s3, gs, abfs, abfss, file. Empty: no object is ever read. 's3a' and "
            "'s3n' are s3. 'file' lets whoever can publish an event make the daemon read its host's files: only for "
            "trials, with allowed_prefixes. gs, abfs and abfss are not supported yet: such objects are unreadable."
        ),
    ).tag(config=True)
    allowed_prefixes = List(
        Unicode(),
        help=(
            "URI prefixes, by whole path segments, inside which objects may be read, such as 's3://my-bucket/data'. "
            "Empty: everywhere in allowed_schemes; IAM is then the limit."
        ),
    ).tag(config=True)
    region = Unicode(
        None,
        allow_none=True,
        help=(
            "AWS region of all buckets, such as eu-west-1. None: each bucket's own, asked from S3; with endpoint_url, "
            "or when S3 does not say, the AWS chain's (AWS_DEFAULT_REGION, profile, AWS_REGION), then us-east-1."
        ),
    ).tag(config=True)
    endpoint_url = Unicode(
        None,
        allow_none=True,
        help=(
            "URL of an S3 compatible store, such as http://minio:9000. None: AWS_ENDPOINT_URL_S3, then "
            "AWS_ENDPOINT_URL, then AWS itself."
        ),
    ).tag(config=True)
    anonymous = Bool(False, help="Read without credentials (public buckets).").tag(config=True)
    max_object_bytes = Int(
        64 * 1024 * 1024,
        min=0,
        help=(
            "The largest object that is read whole, in bytes; larger ones are unreadable. 0: only empty ones. Data "
            "files, of which only footers are read, have no limit."
        ),
    ).tag(config=True)
    connect_timeout_seconds = Float(5.0, min=0.1, help="Time to connect to the store, in seconds.").tag(config=True)
    request_timeout_seconds = Float(
        30.0, min=0.1, help="Time without any byte after which a request is given up, in seconds."
    ).tag(config=True)
    max_attempts = Int(
        3, min=1, help="Tries of one request, with a growing delay, before the read is put off. 1: no second try."
    ).tag(config=True)
    parallel_reads = Int(16, min=1, help="Objects that are read at the same time.").tag(config=True)
    objects = Unicode(
        "",
        help="Directory that stands for S3: s3://BUCKET/KEY is read from DIRECTORY/BUCKET/KEY. Empty: S3 itself.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        """Store the options; nothing is connected before the first read."""
        super().__init__(**kwargs)
        self._lock = threading.Lock()
        self._counter_lock = threading.Lock()
        self._reads = 0
        self._bytes_read = 0
        self._filesystems: dict[str, Any] = {}
        self._clients: dict[str, S3Client] = {}
        self._session: Any = None
        self._regions: dict[str, tuple[str, float]] = {}
        self._no_credentials_until = 0.0
        self._clock: Callable[[], float] = time.monotonic

    @validate("allowed_schemes")
    def _check_schemes(self, proposal: Any) -> list[str]:
        schemes = [scheme.lower().removesuffix("://") for scheme in proposal["value"]]
        schemes = [_ALIASES.get(scheme, scheme) for scheme in schemes]
        for scheme in schemes:
            if scheme not in READABLE_SCHEMES:
                known = ", ".join(READABLE_SCHEMES)
                message = f"Storage.allowed_schemes: {scheme!r} is no store that can be read; write some of {known}"
                raise TraitError(message)
        return schemes

    @validate("allowed_prefixes")
    def _check_prefixes(self, proposal: Any) -> list[str]:
        prefixes = []
        for prefix in proposal["value"]:
            scheme, separator, rest = prefix.partition("://")
            scheme = _ALIASES.get(scheme.lower(), scheme.lower())
            if not separator or scheme not in READABLE_SCHEMES:
                message = f"Storage.allowed_prefixes: {prefix!r} has no scheme; write s3://BUCKET/PATH"
                raise TraitError(message)
            prefixes.append(f"{scheme}://{rest.rstrip('/')}")
        return prefixes

    @validate("objects")
    def _check_objects(self, proposal: Any) -> str:
        directory: str = proposal["value"]
        if directory and not os.path.isdir(directory):
            message = (
                f"Storage.objects: {directory!r} is no directory; name the one that holds a folder for each bucket"
            )
            raise TraitError(message)
        return directory

    @property
    def reads(self) -> int:
        """Reads since the start that brought bytes: one for a whole object, one for each range of an opened one."""
        return self._reads

    @property
    def bytes_read(self) -> int:
        """Bytes of objects read since the start, without requests' and listings' own."""
        return self._bytes_read

    def read(self, uri: str) -> bytes:
        """The whole object.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectUnreadableError: not allowed or not permitted, or larger than ``max_object_bytes`` (then nothing of it
                was read).
            StorageUnavailableError: try later.
        """
        location = self._locate(uri)
        with self._open(location) as file:
            if file.size > self.max_object_bytes:
                message = (
                    f"{shown(uri)} has {file.size} bytes, more than Storage.max_object_bytes ({self.max_object_bytes})"
                )
                raise ObjectUnreadableError(message)
            data = file.read()
            if len(data) != file.size:
                message = f"{shown(uri)} ended after {len(data)} of {file.size} bytes"
                raise StorageUnavailableError(message)
            return data

    def open(self, uri: str) -> pa.NativeFile:
        """The object for random access: ranges are fetched as they are asked for, each one request.

        Close it, or use it as a context manager. Its reads raise as :meth:`read` does.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectUnreadableError: not allowed or not permitted.
            StorageUnavailableError: try later.
        """
        return pa.PythonFile(self._open(self._locate(uri)), mode="r")

    def files(self, uri: str, limit: int) -> list[FileEntry]:
        """The data files below a directory, else the file of that name itself.

        Args:
            uri: a directory or a file; a trailing slash means nothing.
            limit: the most entries, at least 1. The listing stops there: ask for one more to know of more.

        Returns:
            1 to ``limit`` entries in the order of their URIs' UTF-8 bytes. Left out is what lies below a segment that
            starts with ``_`` or ``.`` (Spark's ``_SUCCESS``, checksums), and directories' own markers.

        Raises:
            ObjectNotFoundError: there is no data file and no file of that name.
            ObjectUnreadableError: not allowed or not permitted.
            StorageUnavailableError: try later.
        """
        location = self._locate(uri)
        path = self._local_path(location)
        if path is not None:
            return self._local_files(location, path, limit)
        refused: ObjectUnreadableError | None = None
        try:
            entries = self._list(location, limit)
        except ObjectUnreadableError as error:
            # A policy with s3:GetObject alone is common; the URI may be a file.
            entries, refused = [], error
        if entries:
            return entries
        try:
            with self._open(location) as file:
                return [FileEntry(location.uri, file.size)]
        except ObjectUnreadableError:
            if refused is not None:
                raise refused from None
            raise

    # -- what a URI may be -----------------------------------------------------------------------------------------

    def _locate(self, uri: str) -> _Location:
        """Check a URI without any I/O outside the local directory that it names."""
        if len(uri) > _MAX_URI_CHARACTERS:
            raise _refused(uri, f"is longer than {_MAX_URI_CHARACTERS} characters")
        if _FORBIDDEN.search(uri):
            raise _refused(uri, "has control characters")
        scheme, separator, rest = uri.partition("://")
        if not separator:
            raise _refused(uri, "has no scheme")
        scheme = _ALIASES.get(scheme.lower(), scheme.lower())
        if scheme not in self.allowed_schemes:
            raise _refused(uri, "has a scheme that is not allowed (Storage.allowed_schemes)")
        if scheme in _NOT_YET:
            raise _refused(uri, f"cannot be read: {scheme} is not supported yet")
        bucket, slash, key = ("", *rest.partition("/")[1:]) if scheme == "file" else rest.partition("/")
        key = key.rstrip("/")
        if scheme == "file":
            if not rest.startswith("/"):
                raise _refused(uri, "names a host; file URIs look like file:///PATH")
        elif not _BUCKET.fullmatch(bucket):
            raise _refused(uri, "has no valid bucket name")
        if not slash or not key:
            raise _refused(uri, "names no object")
        if any(segment in ("", ".", "..") for segment in key.split("/")):
            raise _refused(uri, "has an empty or a relative path segment")
        if scheme == "s3" and len(key.encode()) > _MAX_S3_KEY_BYTES:
            raise _refused(uri, f"has a key of more than {_MAX_S3_KEY_BYTES} bytes")
        location = _Location(scheme, bucket, key if bucket else f"/{key}")
        if not self._has_allowed_prefix(location):
            raise _refused(uri, "lies outside Storage.allowed_prefixes")
        return location

    def _has_allowed_prefix(self, location: _Location) -> bool:
        if not self.allowed_prefixes:
            return True
        uri = location.uri
        prefixes = self.allowed_prefixes
        if location.scheme == "file":
            # A link inside an allowed directory must not lead out of it.
            uri = f"file://{os.path.realpath(location.key)}"
            prefixes = [
                f"file://{os.path.realpath(prefix.removeprefix('file://') or '/')}".rstrip("/")
                for prefix in prefixes
                if prefix.startswith("file://")
            ]
        return any(uri == prefix or uri.startswith(f"{prefix}/") for prefix in prefixes)

    # -- local files -----------------------------------------------------------------------------------------------

    def _local_path(self, location: _Location) -> str | None:
        """The file that stands for a location, links resolved; None when it is in a real store."""
        if location.scheme == "file":
            return os.path.realpath(location.key)
        if not self.objects:
            return None
        root = os.path.realpath(self.objects)
        path = os.path.realpath(os.path.join(root, location.bucket, location.key))
        if not _is_inside(path, root):
            raise _refused(location.uri, "leads out of Storage.objects")
        return path

    def _local_files(self, location: _Location, path: str, limit: int) -> list[FileEntry]:
        with self._mapped(location):
            if not os.path.isdir(path):
                return [FileEntry(location.uri, _regular_size(location, path))]
            entries: list[FileEntry] = []
            for name, size in _walk(path):
                entries.append(FileEntry(f"{location.uri}/{name}", size))
                if len(entries) >= limit:
                    break
        if not entries:
            message = f"{shown(location.uri)} holds no data file"
            raise ObjectNotFoundError(message)
        return entries

    # -- stores ----------------------------------------------------------------------------------------------------

    def _open(self, location: _Location) -> _CountedFile:
        path = self._local_path(location)
        with self._mapped(location):
            if path is not None:
                _regular_size(location, path)
                return _CountedFile(self, location, pa.OSFile(path, "r"))
            filesystem = self._filesystem(self._region_of(location.bucket))
            return _CountedFile(self, location, filesystem.open_input_file(f"{location.bucket}/{location.key}"))

    def _list(self, location: _Location, limit: int) -> list[FileEntry]:
        """Data files below a prefix in S3, in its own order: UTF-8 bytes of the key."""
        prefix = f"{location.key}/"
        entries: list[FileEntry] = []
        request: dict[str, Any] = {"Bucket": location.bucket, "Prefix": prefix}
        with self._mapped(location):
            client = self._client(self._region_of(location.bucket))
            for _ in range(limit // _PAGE + 1 + _PAGES_OF_SKIPPED):
                page = client.list_objects_v2(MaxKeys=min(_PAGE, limit - len(entries) + 10), **request)
                for item in page.get("Contents", ()):
                    name = item["Key"].removeprefix(prefix)
                    if name and _is_data(name):
                        entries.append(FileEntry(f"s3://{location.bucket}/{item['Key']}", item["Size"]))
                        if len(entries) >= limit:
                            return entries
                if not page.get("IsTruncated"):
                    break
                request["ContinuationToken"] = page["NextContinuationToken"]
        return entries

    def _region_of(self, bucket: str) -> str:
        """The region to ask for a bucket; what S3 said is kept, a failure to say is tried again after a minute."""
        if self.region:
            return self.region
        if self._endpoint():
            return self._default_region()
        region, believed_until = self._regions.get(bucket, ("", 0.0))
        if region and self._clock() < believed_until:
            return region
        from pyarrow.fs import resolve_s3_region

        try:
            region, believed_until = resolve_s3_region(bucket), float("inf")
        except (OSError, pa.ArrowException) as error:
            region, believed_until = self._default_region(), self._clock() + _FAILED_LOOKUP_SECONDS
            self.log.debug(
                "Region of bucket %s is not known, using %s: %s",
                bucket,
                region,
                error,
                extra={"action": "bucket_region_unknown", "bucket": bucket},
            )
        with self._lock:
            if len(self._regions) >= _REMEMBERED_BUCKETS:
                self._regions.clear()
            self._regions[bucket] = (region, believed_until)
        return region

    def _endpoint(self) -> str | None:
        return self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None

    def _default_region(self) -> str:
        with self._lock:
            region: str | None = self._aws_session().region_name
        return region or os.environ.get("AWS_REGION") or "us-east-1"

    def _aws_session(self) -> Any:
        """The boto3 session; call with the lock held, sessions are not thread-safe."""
        if self._session is None:
            import boto3

            self._session = boto3.session.Session()
        return self._session

    def _require_credentials(self) -> None:
        """Say so when there are no credentials: S3 itself answers an unsigned request as if the object were denied."""
        if self.anonymous or self._filesystems or self._clients:
            return
        if self._clock() >= self._no_credentials_until:
            if self._aws_session().get_credentials() is not None:
                return
            self._session = None
            self._no_credentials_until = self._clock() + _FAILED_LOOKUP_SECONDS
        message = "no AWS credentials to read S3 with; provide some, or set Storage.anonymous for public buckets"
        raise StorageUnavailableError(message)

    def _filesystem(self, region: str) -> Any:
        filesystem = self._filesystems.get(region)
        if filesystem is None:
            from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

            with self._lock:
                self._require_credentials()
                filesystem = self._filesystems.setdefault(
                    region,
                    S3FileSystem(
                        anonymous=self.anonymous,
                        region=region,
                        endpoint_override=self._endpoint(),
                        connect_timeout=self.connect_timeout_seconds,
                        request_timeout=self.request_timeout_seconds,
                        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=self.max_attempts),
                    ),
                )
        return filesystem

    def _client(self, region: str) -> S3Client:
        client = self._clients.get(region)
        if client is None:
            from botocore import UNSIGNED
            from botocore.config import Config

            config = Config(
                connect_timeout=self.connect_timeout_seconds,
                read_timeout=self.request_timeout_seconds,
                max_pool_connections=self.parallel_reads,
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                s3={"addressing_style": "path" if self._endpoint() else "auto"},
            )
            if self.anonymous:
                config = config.merge(Config(signature_version=UNSIGNED))
            with self._lock:
                self._require_credentials()
                client = self._clients.setdefault(
                    region,
                    self._aws_session().client("s3", region_name=region, endpoint_url=self._endpoint(), config=config),
                )
        return client

    # -- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _mapped(self, location: _Location) -> Iterator[None]:
        """The one edge: whatever a store, pyarrow, boto3 or the system raises becomes one of our three errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FlyteLineageError:
            raise
        except ClientError as error:
            raise _from_client_error(location.uri, error) from error
        except BotoCoreError as error:
            message = f"{shown(location.uri)}: {_bounded(error)}"
            raise StorageUnavailableError(message) from error
        except (OSError, pa.ArrowException) as error:
            raise self._from_pyarrow(location, error) from error

    def _from_pyarrow(self, location: _Location, error: Exception) -> FlyteLineageError:
        uri = shown(location.uri)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return ObjectNotFoundError(f"there is no object {uri}")
        # The key is untrusted and part of the text: it must not decide what kind of error this is.
        text = str(error).replace(f"'{location.key}'", "KEY")
        matched = _AWS_ERROR.search(text)
        if matched is None:
            return _from_os_error(uri, error)
        name, status = matched["name"], int(matched["status"] or 0)
        if name in _PYARROW_NOT_FOUND or status == 404:
            return ObjectNotFoundError(f"there is no object {uri}")
        if name in _PYARROW_REFUSED or status in _REFUSED_STATUS:
            return self._why_refused(location)
        if status == 301:
            return StorageUnavailableError(f"the bucket of {uri} is in another region; set or unset Storage.region")
        return StorageUnavailableError(f"{uri}: {_bounded(text)}")

    def _why_refused(self, location: _Location) -> FlyteLineageError:
        """Ask S3 again by a GET of one byte, whose refusal has a reason (a HEAD's has not)."""
        try:
            with self._mapped(location):
                client = self._client(self._region_of(location.bucket))
                client.get_object(Bucket=location.bucket, Key=location.key, Range="bytes=0-0")["Body"].close()
        except FlyteLineageError as error:
            return error
        return StorageUnavailableError(f"{shown(location.uri)} was refused, then not; it is tried again")

    def _count(self, size: int) -> None:
        with self._counter_lock:
            self._reads += 1
            self._bytes_read += size


def _refused(uri: str, reason: str) -> ObjectUnreadableError:
    return ObjectUnreadableError(f"{shown(uri)} {reason}")


def _bounded(error: object) -> str:
    return " ".join(str(error).split())[:300]


def _from_client_error(uri: str, error: Any) -> FlyteLineageError:
    """Map S3's answer to boto3 by its code, then by its status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _NOT_FOUND or status == 404:
        return ObjectNotFoundError(f"there is no object {shown(uri)}")
    if code in _OUR_CREDENTIALS:
        return StorageUnavailableError(f"{shown(uri)}: the AWS credentials are refused ({code}); renew them")
    if status in _REFUSED_STATUS and code not in ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"):
        return ObjectUnreadableError(f"{shown(uri)} may not be read: {_bounded(code)}")
    return StorageUnavailableError(f"{shown(uri)}: {_bounded(error)}")


def _from_os_error(uri: str, error: Exception) -> FlyteLineageError:
    """Map what the system or pyarrow itself said."""
    number = getattr(error, "errno", None)
    if isinstance(error, (PermissionError, IsADirectoryError)) or number in (errno.ELOOP, errno.ENAMETOOLONG):
        return ObjectUnreadableError(f"{uri} may not be read: {_bounded(os.strerror(number or errno.EACCES))}")
    if isinstance(error, pa.ArrowInvalid) or "Not a regular file" in str(error):
        return ObjectUnreadableError(f"{uri} is no object that can be read")
    return StorageUnavailableError(f"{uri}: {_bounded(error)}")


def _regular_size(location: _Location, path: str) -> int:
    """Bytes of a regular file. A pipe or a device would block its reader, or never end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise _refused(location.uri, "is no regular file")
    return found.st_size


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _is_data(name: str) -> bool:
    """Whether a name below a dataset's directory is data: no hidden segment, no directory's own marker."""
    return not name.endswith("/") and not any(segment.startswith(("_", ".")) for segment in name.split("/"))


def _walk(root: str, below: str = "") -> Iterator[tuple[str, int]]:
    """Data files below a directory with their sizes, in S3's order; links are not followed."""
    with os.scandir(os.path.join(root, below)) as scanned:
        children = [
            (f"{child.name}/" if child.is_dir(follow_symlinks=False) else child.name, child)
            for child in scanned
            if _is_data(child.name)
        ]
    for name, child in sorted(children, key=lambda pair: os.fsencode(pair[0])):
        if name.endswith("/"):
            yield from _walk(root, f"{below}{name}")
        elif child.is_file(follow_symlinks=False):
            yield f"{below}{name}", child.stat(follow_symlinks=False).st_size
