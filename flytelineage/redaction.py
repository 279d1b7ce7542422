"""What may be shown of a text that can hold a secret: option values, error texts and log lines.

Hiding too much is harmless, hiding too little is not: where a text can be read two ways, it is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"

_SECRET_WORDS = frozenset(
    [
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "credential",
        "passphrase",
        "passwd",
        "password",
        "pwd",
        "secret",
        "sig",
        "signature",
        "token",
    ]
)
_SECRET_ENDINGS = ("password", "passwd", "secret", "token", "apikey", "accesskey", "privatekey", "authkey", "keyid")
_SHOWN_ENDINGS = frozenset(
    [
        "class",
        "count",
        "env",
        "file",
        "name",
        "path",
        "pattern",
        "prefix",
        "second",
        "size",
        "timeout",
        "type",
        "uri",
        "url",
    ]
)
_ORDINARY_KEYS = frozenset(
    [
        "cache",
        "column",
        "dataset",
        "entity",
        "event",
        "foreign",
        "group",
        "hash",
        "join",
        "map",
        "message",
        "object",
        "partition",
        "primary",
        "range",
        "row",
        "sort",
    ]
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_SHORTEST_LEARNED = 4
"""A learned secret shorter than this is not searched in texts: it would blot out ordinary words."""

_HTTP_USER = re.compile(r"\b(?P<scheme>https?)://[^\s/?#'\"]*@", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"\b(?P<head>[a-z][a-z0-9+.\-]*://[^\s/:@?#'\"]*):(?P<password>[^\s'\"]*)@", re.IGNORECASE)
_PARAMETER = re.compile(r"(?P<head>(?<![\w.\-])(?P<name>[\w.\-]+)=)(?P<value>'[^']*'|\"[^\"]*\"|[^\s&#;,'\")\]}]+)")
_ITEM = re.compile(r"(?P<head>(?P<quote>['\"])(?P<name>[\w.\-]+)(?P=quote)\s*:\s*)(?P<value>'[^']*'|\"[^\"]*\")")


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret, by the words in the name.

    ``api_key``, ``authToken`` and ``X-Amz-Signature`` are; ``partition_key``, ``keyspace``, ``key_prefix`` and
    ``token_file`` (a path) are not.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    words = [word[:-1] if word.endswith("s") else word for word in words]
    if not words or words[-1] in _SHOWN_ENDINGS:
        return False
    if any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words):
        return True
    if words[-2:] == ["key", "id"]:
        return True
    return words[-1] == "key" and not _ORDINARY_KEYS.intersection(words)


class Redactor:
    """Hides secrets, those that can be told by their form and those it has learned.

    Args:
        secrets: values that are hidden wherever they occur, in whatever form.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str) -> None:
        """Hide this value from now on wherever it occurs."""
        if len(secret) >= _SHORTEST_LEARNED and secret != HIDDEN:
            self._secrets.add(secret)

    def learn_from(self, name: str, value: object, secret: bool = False) -> None:
        """Learn the secrets inside one option's value.

        Args:
            name: the option's name, or a key inside its value.
            value: anything; containers are searched.
            secret: whether the option is declared to be one.
        """
        secret = secret or is_secret_name(name)
        if isinstance(value, str):
            if secret:
                self.learn(value)
            for match in _URL_PASSWORD.finditer(value):
                self.learn(match["password"])
            if (url := _database_url(value)) is not None and url.password:
                self.learn(str(url.password))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.learn_from(str(key), item, secret)
        elif isinstance(value, (list, tuple, set, frozenset)):
            for item in value:
                self.learn_from(name, item, secret)

    def text(self, text: str) -> str:
        """Return the text without passwords and tokens in URLs, in ``name=value`` pairs and in printed dictionaries."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        if "://" in text:
            text = _HTTP_USER.sub(rf"\g<scheme>://{HIDDEN}@", text)
            text = _URL_PASSWORD.sub(rf"\g<head>:{HIDDEN}@", text)
        text = _PARAMETER.sub(_hide_value, text)
        return _ITEM.sub(_hide_value, text)

    def value(self, name: str, value: object, secret: bool = False) -> object:
        """Return an option's value as it may be shown, made of JSON's types.

        Numbers, booleans, None and empty values are shown whatever the name: a secret is text.
        """
        secret = secret or is_secret_name(name)
        if value is None or isinstance(value, (bool, int, float)) or value in ("", b""):
            return value if not isinstance(value, bytes) else ""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(str(key), item, secret) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(name, item, secret) for item in value]
        if secret:
            return HIDDEN
        if isinstance(value, str):
            url = _database_url(value)
            return self.text(value if url is None else url.render_as_string(hide_password=True))
        if isinstance(value, type) or callable(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        # an object's repr is its author's: what it holds may be a secret
        return f"<{type(value).__qualname__}>"


def _hide_value(match: re.Match[str]) -> str:
    # a bare "key" is a secret in a URL's query; in a sentence it is an object's or an entity's
    if match["name"] == "key" and match.string[match.start() - 1 : match.start()] not in ("?", "&"):
        return match[0]
    if not is_secret_name(match["name"]):
        return match[0]
    quote = match["value"][0] if match["value"][0] in "'\"" else ""
    return f"{match['head']}{quote}{HIDDEN}{quote}"


def _database_url(value: str) -> URL | None:
    """Parse a URL with a password as SQLAlchemy does, which also allows quotes and slashes in passwords."""
    if "://" not in value or "@" not in value:
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        return None
    return url if url.password else None


def redact(text: str) -> str:
    """Return the text without the secrets that can be told by their form."""
    return Redactor().text(text)
