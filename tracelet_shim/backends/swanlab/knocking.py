"""Asking whether the service is there, before the SDK does."""

from __future__ import annotations

from tracelet_shim.backends.shared.transient import may_open

__all__ = ["knock"]


def knock(host: str, key: str) -> None:
    """Log in, as the SDK does next, but only once: it would try for 15 seconds, and then say of a service that is away or busy
    the same as of a wrong key.

    Raises:
        ConnectionError: there is no answer, or one that passes.
    """
    import requests

    try:
        answer = requests.post(f"{host}/api/login/api_key", headers={"authorization": key}, timeout=(5, 15))
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {host} ({type(error).__name__})") from None
    if may_open(answer.status_code, own="html" not in answer.headers.get("Content-Type", "")):
        raise ConnectionError(f"{host} answers {answer.status_code}")
