"""Where Redis is: ``delivery="redis://host:6379/0"``, and the password, which is in no file and no message of ours."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from tracelet_shim.errors import ConfigurationError

__all__ = ["SCHEMES", "Address", "address_of", "connect", "is_address", "require_client"]

SCHEMES = ("redis", "rediss", "unix")
_BUDGET = 256.0
_OURS = {"budget"}
_THEIRS = {
    "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname", "socket_timeout", "db", "username",
}  # fmt: skip
"""Of the query of an address: what redis-py takes (its documentation, "Connecting to Redis", `Redis.from_url`)."""


class Address(NamedTuple):
    """Where Redis is.

    Attributes:
        url: without a password.
        password: None takes that of the environment.
        budget: megabytes of records that one session may have in Redis which its trackers have not acknowledged.
    """

    url: str
    password: str | None
    budget: float

    def __repr__(self) -> str:
        return f"Address({self.url!r}, ...)"


def is_address(text: str) -> bool:
    """Return whether this is meant as the address of a Redis."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def address_of(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigurationError: it cannot be right. The message shows no password.
    """
    shown = re.sub(r"//[^/@]*@", "//***@", text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"delivery={shown!r} is no address of a Redis: {error}; remedy: redis://host:6379/0") from None
    if parts.scheme not in SCHEMES or not (parts.hostname or parts.scheme == "unix"):
        raise ConfigurationError(f"delivery={shown!r} is no address of a Redis; remedy: redis://host:6379/0")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(query) - _OURS - _THEIRS)
    if unknown:
        known = ", ".join(sorted(_OURS | _THEIRS))
        raise ConfigurationError(f"delivery={shown!r} cannot be used: unknown {', '.join(map(repr, unknown))}; known are {known}")
    try:
        budget = float(query.get("budget", _BUDGET))
    except ValueError:
        budget = 0.0
    if not 1.0 <= budget <= 1e6:
        problem = f"budget={query['budget']!r} is no number of megabytes from 1"
        raise ConfigurationError(f"delivery={shown!r} cannot be used: {problem}")
    host = parts.hostname or ""
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    user = f"{quote(unquote(parts.username))}@" if parts.username else ""
    url = urlunsplit((parts.scheme, user + place, parts.path, urlencode(query), ""))
    return Address(url, unquote(parts.password) if parts.password else None, budget)


def require_client() -> None:
    """Make sure, without importing it, that there is a client of Redis.

    Raises:
        ConfigurationError: there is none.
    """
    if importlib.util.find_spec("redis") is None:
        raise ConfigurationError("delivery through Redis needs its client; remedy: pip install 'tracelet-shim[fleet]'")


def _password(address: Address, environment: Mapping[str, str]) -> str | None:
    """Return the password: the address's, or that of ``TRACELET_REDIS_PASSWORD``, or of the file that
    ``TRACELET_REDIS_PASSWORD_FILE`` names.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if address.password is not None:
        return address.password
    if environment.get("TRACELET_REDIS_PASSWORD"):
        return environment["TRACELET_REDIS_PASSWORD"]
    file = environment.get("TRACELET_REDIS_PASSWORD_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"TRACELET_REDIS_PASSWORD_FILE={file!r} cannot be read: {error}") from None


def connect(address: Address, environment: Mapping[str, str] | None = None) -> Any:
    """Return a client (`redis.Redis`, of bytes; usable from several threads). Nothing is sent yet. It does not try again by
    itself: whoever calls knows better what may be said twice.

    Raises:
        ConfigurationError: as above.
    """
    require_client()
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    parts = urlsplit(address.url)
    query = {name: value for name, value in parse_qsl(parts.query) if name not in _OURS}
    options: dict[str, Any] = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0, "health_check_interval": 30}
    if parts.scheme == "unix":
        del options["socket_connect_timeout"]
    query.pop("socket_timeout", None)
    password = _password(address, os.environ if environment is None else environment)
    if password is not None:
        options["password"] = password
    return redis.Redis.from_url(urlunsplit(parts._replace(query=urlencode(query))), retry=Retry(NoBackoff(), 0), **options)
