"""Which run-scoped dataset a URI is: what executions wrote where, remembered by URI.

A URI resolves by its longest whole-segment prefix that somebody wrote, a file inside a recorded folder to the folder's
dataset. URIs are looked up by hash: they are long, and an index of hashes is small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy.engine import Connection

from flytelineage.inbox.database import select_in


def uri_hash(uri: str) -> int:
    """64-bit hash of a normalised URI, signed as databases want it."""
    data = uri.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def uri_prefixes(uri: str) -> list[str]:
    """The URI and its whole-segment prefixes, longest first, never a bucket's root."""
    found = []
    while uri.count("/") > 2:
        found.append(uri)
        uri = uri.rpartition("/")[0]
    return found


def locations_of(connection: Connection, uris: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Look up who wrote some URIs.

    Args:
        connection: to read from.
        uris: normalised, and exact: see :func:`uri_prefixes`.

    Returns:
        By URI, for those that somebody wrote: the task's row, and the variable. Should several executions have written
        one, the last of them by (start, name).
    """
    query = (
        "SELECT l.uri, l.started_at, e.key, l.variable, l.task FROM location l JOIN execution e ON e.id = l.execution"
        " WHERE l.hash IN ({})"
    )
    rows = sorted(select_in(connection, query, sorted({uri_hash(uri) for uri in uris})))
    return {uri: (task, variable) for uri, _, _, variable, task in rows}
