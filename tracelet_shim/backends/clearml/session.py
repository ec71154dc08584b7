"""The SDK's requests: bounded in time, sent once, and with an error for each refusal. The relay has retries of its own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from tracelet_shim import errors
from tracelet_shim.backends.shared.transient import Patience, Verdict, judge

__all__ = ["RefusedError", "UploadError", "bounded_like", "connect", "passes", "send_once"]

_RETRIES = {"total": 2, "connect": 2, "read": 0, "redirect": 2, "status": 0, "backoff_factor": 0.2}
"""Instead of 240 retries, up to two minutes apart (``api.http.retries``). What may have been done is not asked for again there:
who asked has to look first, lest a task is made twice."""
_TIMEOUT = (5.0, 20.0)
"""Seconds to connect, and to wait for an answer. The SDK's own are 10 and 300, and 300 where there is much to send."""
_STATUS = re.compile(r"\((?:error )?(\d{3})\b")
"""The status of a log-in or an upload, in the SDK's text (``Session._do_refresh_token``, ``_HttpDriver``)."""


class RefusedError(errors.BackendError):
    """The server's answer was no, or not the server's.

    Attributes:
        code: the HTTP status.
        own: False if the answer is not in ClearML's envelope: something in between has answered.
    """

    def __init__(self, code: int, message: str, *, own: bool = True) -> None:
        self.code, self.own = code, own
        super().__init__(f"ClearML server: {code} {message}")


class UploadError(errors.BackendError):
    """A file did not arrive where files go: the file server, or a bucket of some cloud.

    Attributes:
        code: the HTTP status; None if the error has none that we know.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"ClearML: uploading a file failed: {cause!r}")
        response = getattr(cause, "response", None)
        about = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
        codes = [
            about.get("HTTPStatusCode") if isinstance(about, Mapping) else None,  # botocore
            getattr(cause, "code", None),  # google.api_core
            getattr(cause, "status_code", None),  # azure.core
            int(found[1]) if (found := _STATUS.search(str(cause))) else None,
        ]
        self.code: int | None = next((int(code) for code in codes if isinstance(code, int) and code >= 100), None)


def bounded(session: Any) -> Any:
    """Bound each request of an SDK's session in time, and raise what `Session._send_request` would repeat without end: 503, and
    an answer that is torn or badly encrypted. An answer without ClearML's envelope is none of ClearML's."""
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError, SSLError, StreamConsumedError

    session._session_timeout = session._write_session_timeout = _TIMEOUT
    http = session._Session__http_session
    http.write_timeout = _TIMEOUT
    request = http.request

    def once(method: str, url: str, **details: Any) -> Any:
        try:
            answer = request(method, url, **details)
        except (ChunkedEncodingError, ContentDecodingError, SSLError, StreamConsumedError) as error:
            raise ConnectionError(f"ClearML: {error}") from error
        try:
            own = "meta" in answer.json()
        except (ValueError, TypeError):
            own = False
        if not own or answer.status_code == 503:
            raise RefusedError(answer.status_code, " ".join(answer.text[:200].split()), own=own)
        return answer

    http.request = once
    return session


def bounded_like(session: Any) -> Any:
    """Return a session with the log-in of the user's, but for requests of ours: his own go on being repeated for as long as he
    likes, two minutes apart."""
    from clearml.backend_api.utils import get_http_session_with_retry

    ours = copy.copy(session)
    theirs, http = session._Session__http_session, get_http_session_with_retry(**_RETRIES, config=session.config)
    http.request_size_threshold = theirs.request_size_threshold
    http.verify, http.cert, http.trust_env = theirs.verify, theirs.cert, theirs.trust_env
    http.proxies.update(theirs.proxies)
    http.headers.update(theirs.headers)
    ours._Session__http_session = http
    return bounded(ours)


def send_once(session: Any, req: Any, ignore_errors: bool = False, **_: Any) -> Any:
    """Stand in for `InterfaceBase._send`, which repeats without end while there is no connection; raise a refusal."""
    result = session.send(req)
    if result is None or ignore_errors:  # None: offline
        return result
    if result.meta.result_code not in (200, 202):
        raise RefusedError(result.meta.result_code, str(result.meta.result_msg))
    failed = getattr(result.response, "errors", None)
    if isinstance(failed, int) and failed:
        raise RefusedError(400, f"{failed} events refused: {getattr(result.response, 'errors_info', '')}")
    return result


def connect(given: Mapping[str, Any], *, offline: bool, undo: Callable[..., object]) -> None:
    """Set the mode, and log in with bounded retries; both are global in the SDK.

    Args:
        given: the user's options.
        offline: the mode.
        undo: takes (function, *arguments), to be called at the end.
    """
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_SECRET_KEY
    from clearml.backend_api.session.session import LoginError
    from clearml.backend_interface.base import InterfaceBase
    from clearml.config import config_obj
    from clearml.storage.helper import _HttpDriver

    for owner in (InterfaceBase, Session):  # `Task.set_offline` would also set it for every child process
        undo(setattr, owner, "_offline_mode", owner._offline_mode)
        owner._offline_mode = offline
    if InterfaceBase._default_session is not None:
        return
    try:
        session = Session(
            initialize_logging=False,
            config=config_obj,
            api_key=given.get("access_key") or ENV_ACCESS_KEY.get(),
            secret_key=given.get("secret_key") or ENV_SECRET_KEY.get(),
            http_retries_config=dict(_RETRIES),
        )
    except LoginError as error:
        if "Unrecognized" in str(error):  # how the SDK reports that there was no answer
            raise ConnectionError(f"ClearML: no answer from {Session.get_api_server_host()}") from error
        raise errors.BackendError(f"ClearML: {error}") from error
    InterfaceBase._default_session = session if offline else bounded(session)
    _HttpDriver._file_server_hosts = None  # kept from an earlier session: the hosts that get the credentials
    undo(setattr, InterfaceBase, "_default_session", None)


def passes(error: BaseException, patience: Patience | None) -> bool | None:
    """Return whether what was asked may succeed later, as far as a server has said so; None for errors of other kinds.

    Args:
        error: what was raised.
        patience: for refusals that may pass; None: those of a run are not doubted, there it is the key that is wrong.
    """
    if isinstance(error, RefusedError):
        return _doubt(patience, error.code, own=error.own)
    if isinstance(error, UploadError):
        return _doubt(patience, error.code) if error.code else _doubt(patience, 400, own=False)  # nobody knows who said it
    if isinstance(error, errors.BackendError) or type(error).__name__ == "LoginError":
        if found := _STATUS.search(str(error)):
            return _doubt(patience, int(found[1]))
        return "Unrecognized Authentication Error" in str(error)
    return None


def _doubt(patience: Patience | None, code: int, *, own: bool = True) -> bool:
    return patience.passes(code, own=own) if patience else judge(code, own=own) is Verdict.PASSES
