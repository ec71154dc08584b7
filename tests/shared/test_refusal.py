from __future__ import annotations

import pytest

from tracelet_shim.backends.shared.transient import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "401 Unauthorized", "User is not logged in", "invalid API key given", "permission denied for table runs",
        'password authentication failed for user "ada"', 'FATAL: role "ada" does not exist', "Unknown database 'mlflow'",
        "fe_sendauth: no password supplied", "Databricks: cannot configure default credentials, check credential configuration",
    ],
)  # fmt: skip
def test_what_no_waiting_changes(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["connection refused", "server closed the connection unexpectedly", "Read timed out", "503 Service Unavailable", ""]
)
def test_what_may_pass(text: str) -> None:
    assert not is_refusal(text)
