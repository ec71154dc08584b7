"""Versions of the SDK: whose inside is not known here, and what differs between those that are."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tests.backends.comet.reader import CometReader
from tests.backends.comet.test_comet import opened, store  # noqa: F401
from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.sample_events import Maker
from tests.servers.fixtures import Serve
from tracelet_shim.backends.comet import archive, compat
from tracelet_shim.backends.comet.process import discreet


def test_archives_of_an_sdk_that_is_not_known(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Without the methods that an archive of ours rests on, the SDK writes its own: all is in it, and the user hears of it."""
    monkeypatch.setattr(archive, "_OVERRIDDEN", (*archive._OVERRIDDEN, "of_no_version"))
    archive.offline_class.cache_clear()
    try:
        backend = opened(run_id="r", config={"c": 1}, tags={"team": "a", "bare": ""})
        link = backend._url()
        events = Maker().one_of_each()
        backend.write([*events, *(Maker().scalar("x", i / 7, i) for i in range(300))])
        backend.flush()
        backend.close("finished")
        again = opened(run_id="r", session="00000000000000bb")
        again.write([Maker().scalar("x", 1.0, 300)])
        again.close("finished")
    finally:
        archive.offline_class.cache_clear()
    assert list(backend.take_notices()) == ["queue"]
    reader = CometReader(store)
    assert [path.suffix for path in store.iterdir()] == [".zip", ".zip"]
    assert re.fullmatch(rf"comet upload {re.escape(str(store))}/{reader.key}-\*\.zip", link or "")
    (key,) = reader.run_ids()
    values = [(point.step, point.value) for path, point in reader.points(key) if path == "x"]
    assert values == [*((i, i / 7) for i in range(300)), (300, 1.0)]
    assert reader.texts("", "t")
    assert reader.others()["team"] == "a"


ONLINE = """
from tracelet_shim.backends.comet import line
line._OF_API += ("of_no_version",)
begin("comet", exit_timeout=120, delivery="thread")
log(0, 300)
writer.add_text("note", "a text", 1)
"""


def test_server_by_the_queue_of_an_sdk_that_is_not_known(train: Train, serve: Serve) -> None:
    """Without the code behind the SDK's queue, its own queue is used, and the user hears of it."""
    server = serve("comet")
    said = train(ONLINE, env=server.env, exit_timeout=120).end(300, memory=150e6)  # the SDK is in the process
    assert "through its own queue" in said
    assert server.points() == losses(300)
    assert server.things() == ["text 1"]
    server.check_understood()


class Old:
    """A class as one version of the SDK has it."""

    def __init__(self, vector_url: str, metadata_url: str, sprite_url: str | None = None) -> None:
        self.links = vector_url, metadata_url, sprite_url


def test_links_of_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An `Embedding` that takes links alone gets those that later versions make of the files' ids."""
    import comet_ml

    monkeypatch.setattr(comet_ml, "Embedding", Old)
    given: dict[str, Any] = dict.fromkeys(("vector_url", "metadata_url", "sprite_url", "sprite_asset_id"))
    made = compat.projection(**given, vector_asset_id="a", metadata_asset_id="b", experiment_key="k")
    link = "/api/asset/download?assetId={}&experimentKey=k"
    assert made.links == (link.format("a"), link.format("b"), None)


@pytest.mark.parametrize("secret", ["S3CRET", ""])
def test_key_is_kept_out_of_the_log(secret: str) -> None:
    """What the SDK logs about a key that is refused, before 3.50, does not show it."""
    import comet_ml

    logger, out = logging.getLogger("comet_ml.experiment"), io.StringIO()
    handler = logging.StreamHandler(out)
    logging.getLogger("comet_ml").addHandler(handler)
    try:
        with discreet(secret) as logged:
            try:
                raise comet_ml.exceptions.InvalidAPIKey("S3CRET", "host")
            except comet_ml.exceptions.InvalidAPIKey:
                logger.error("The given API key %s is invalid on %s", "S3CRET", "host", exc_info=True)  # noqa: G201 - as the SDK does it
        logger.error("after")
    finally:
        logging.getLogger("comet_ml").removeHandler(handler)
    assert {type(error) for error in logged} == {comet_ml.exceptions.InvalidAPIKey}
    told = "The given API key *** is invalid on host\nafter\n"
    assert out.getvalue() == told if secret else "key S3CRET is invalid" in out.getvalue()


def test_project_is_named_as_the_sdk_asks() -> None:
    def old(project: str | None = None) -> None:
        """As before 3.47."""

    def new(project: str | None = None, project_name: str | None = None) -> None:
        """As since."""

    assert compat.named_project(old, "p") == {"project": "p"}
    assert compat.named_project(new, "p") == {"project_name": "p"}


def test_step_of_a_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the upload would mark the run as failed for it, the step of a scene is in the metadata."""
    scene = {"name": "m", "step": 3, "metadata": {"tag": "m"}}
    monkeypatch.setattr(compat, "_scene_has_step", lambda: True)
    assert compat.as_uploaded("3d-image", scene) == scene
    monkeypatch.setattr(compat, "_scene_has_step", lambda: False)
    assert compat.as_uploaded("3d-image", scene) == {"name": "m", "metadata": {"tag": "m", "step": 3}}
    assert compat.as_uploaded("metric_msg", scene) == scene
