from __future__ import annotations

from pathlib import Path

import pytest

from tracelet_shim.backends.shared.probe import ON, Probe

PROBE = Probe(
    server=("host", "X_HOST"), default="https://example.com", stored=(("$X_CONFIG", "~/x.conf"), r"(?m)^host = (\S+)"),
    credentials=("X_KEY",), files=("~/x.token", "~/.netrc"), offline=(("offline", ON), ("X_OFFLINE", ON)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("X_HOST", "X_CONFIG", "X_KEY", "X_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_the_option_comes_before_the_variable_and_that_before_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PROBE.address({}), PROBE.stored_address()) == ("", "https://example.com")
    (tmp_path / "x.conf").write_text("a = b\nhost = http://stored\n")
    assert PROBE.stored_address() == "http://stored"
    monkeypatch.setenv("X_CONFIG", str(tmp_path / "other.conf"))
    (tmp_path / "other.conf").write_text("host = http://other\n")
    assert PROBE.stored_address() == "http://other"
    monkeypatch.setenv("X_HOST", "http://variable")
    assert PROBE.address({"host": ""}) == "http://variable"
    assert PROBE.address({"host": "http://option"}) == "http://option"


def test_offline_is_what_the_tracker_would_take_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not PROBE.is_offline({})
    assert PROBE.is_offline({"offline": True})
    assert not PROBE.is_offline({"offline": "no"})
    monkeypatch.setenv("X_OFFLINE", "1")
    assert PROBE.is_offline({})


def test_credentials_are_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROBE.found_credentials() == []
    monkeypatch.setenv("X_KEY", "secret")
    (tmp_path / "x.token").write_text("secret")
    (tmp_path / ".netrc").write_text("# empty")
    assert PROBE.found_credentials() == ["X_KEY (environment)", str(tmp_path / "x.token")]
    (tmp_path / ".netrc").write_text("machine example.com login a password b")
    assert str(tmp_path / ".netrc") in PROBE.found_credentials()
