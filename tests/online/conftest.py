"""Fixtures of the programs that run the unmodified SDKs online, against stand-in servers."""

from __future__ import annotations

from tests.servers.fixtures import serve, train

__all__ = ["serve", "train"]
