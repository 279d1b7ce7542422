"""What a data file says of itself: columns, rows and bytes, from its footer alone.

Only parquet for now. The last 64 KB are read in one request; a longer footer takes a second one. No row is ever read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from traitlets import Instance, Int
from traitlets.config import LoggingConfigurable

from flytelineage.errors import ObjectUnreadableError
from flytelineage.model import Field
from flytelineage.storage import Storage, shown

TAIL_BYTES = 64 * 1024
"""Read from the end at once: holds the footers of nearly all files, and is one request like any smaller range."""

_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_TRAILER_BYTES = 8
"""Footer length (4 bytes, little endian) and magic: https://parquet.apache.org/docs/file-format/."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the files of one dataset say of themselves.

    Attributes:
        fields: columns in the file's order, with Arrow's own names for their types, nested types whole.
        rows: of the dataset, known when it is a single file; else None (each file's footer would have to be read).
        bytes: of all data files together; None when there are more of them than were listed.
    """

    fields: tuple[Field, ...]
    rows: int | None
    bytes: int | None


class SchemaReader(LoggingConfigurable):
    """Reads the schema of a dataset by URI and format; may be used by many threads at once."""

    storage = Instance(Storage, help="What files are read through.")
    max_footer_bytes = Int(
        16 * 1024 * 1024,
        min=0,
        help="The largest footer that is read, in bytes; a file with a larger one is unreadable.",
    ).tag(config=True)
    max_files = Int(
        10_000,
        min=1,
        help="The most files of a dataset that are listed to sum up its bytes; with more, bytes are unknown.",
    ).tag(config=True)

    def read(self, uri: str, format: str) -> FileFacts | None:  # noqa: A002  (the word of Flyte's type and of ours)
        """Facts about the dataset at a URI.

        Args:
            uri: a file, or a directory of files such as flytekit writes (``<uri>/00000``); of several the first by
                name gives the columns.
            format: Flyte's name of the format, in any case.

        Returns:
            None, without any I/O, for a format that is unknown or not supported.

        Raises:
            ObjectNotFoundError: there is no file.
            ObjectUnreadableError: not allowed, not permitted, or no file of this format.
            StorageUnavailableError: try later.
        """
        reader = _READERS.get(format.lower())
        if reader is None:
            return None
        files = self.storage.files(uri, self.max_files + 1)
        fields, rows = reader(self, files[0].uri)
        return FileFacts(
            fields=fields,
            rows=rows if len(files) == 1 else None,
            bytes=sum(file.size for file in files) if len(files) <= self.max_files else None,
        )

    def _read_parquet(self, uri: str) -> tuple[tuple[Field, ...], int]:
        footer = pa.BufferReader(self._parquet_footer(uri))
        try:
            metadata = pq.read_metadata(footer)
            schema = metadata.schema.to_arrow_schema()
            return tuple(Field(field.name, str(field.type), field.nullable) for field in schema), metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            message = f"{shown(uri)} has a damaged parquet footer: {' '.join(str(error).split())[:200]}"
            raise ObjectUnreadableError(message) from error

    def _parquet_footer(self, uri: str) -> bytes:
        """Footer with its length and magic: for a parquet reader a file without any rows' bytes."""
        with self.storage.open(uri) as file:
            size: int = file.size()
            tail: bytes = file.read_at(min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
            if tail[-4:] == _ENCRYPTED_MAGIC:
                message = f"{shown(uri)} has an encrypted footer"
                raise ObjectUnreadableError(message)
            if len(tail) < _TRAILER_BYTES or tail[-4:] != _MAGIC:
                message = f"{shown(uri)} is no parquet file"
                raise ObjectUnreadableError(message)
            length = int.from_bytes(tail[-8:-4], "little")
            needed = length + _TRAILER_BYTES
            if needed > size:
                message = f"{shown(uri)} is no whole parquet file: its footer would be longer than itself"
                raise ObjectUnreadableError(message)
            if length > self.max_footer_bytes:
                message = f"{shown(uri)} has a footer of {length} bytes, more than SchemaReader.max_footer_bytes"
                raise ObjectUnreadableError(message)
            if needed > len(tail):
                tail = file.read_at(needed - len(tail), size - needed) + tail
        return tail[-needed:]


_Reader = Callable[[SchemaReader, str], tuple[tuple[Field, ...], int]]

_READERS: dict[str, _Reader] = {"parquet": SchemaReader._read_parquet}
"""By Flyte's format name. A new format is one method: URI to columns and rows."""
