"""Fixtures of the programs that run the unmodified SDKs online, against stand-in servers."""

from __future__ import annotations

import pytest

from tests.servers.fixtures import serve, train

pytest.register_assert_rewrite("tests.online.rounds")

__all__ = ["serve", "train"]
