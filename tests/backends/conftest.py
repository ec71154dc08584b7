"""Fixtures of the programs that run the unmodified SDKs online, against stand-in servers, and of full disks."""

from __future__ import annotations

from tests.faults.conftest import small_disk
from tests.servers.fixtures import serve, train

__all__ = ["serve", "small_disk", "train"]
