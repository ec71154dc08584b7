"""Servers that are well."""

from __future__ import annotations

from tests.faults.conftest import Train
from tests.faults.harness import losses
from tests.servers.fixtures import Serve
from tests.servers.harness import SERVERS


def test_everything_is_on_the_server(train: Train, serve: Serve) -> None:
    """A program that is not changed, and names its trackers in the environment, has each point on each tracker's server: once,
    with its step and exact value."""
    servers = [serve(name) for name in SERVERS]
    env: dict[str, str | None] = {"TRACELET_BACKEND": ",".join(SERVERS), "TRACELET_EXIT_TIMEOUT": "150"}
    for server in servers:
        env |= server.env
    program = train('writer = SummaryWriter("runs/x")\nreach("begun")\nlog(0, 225)\n', env=env, exit_timeout=150)
    said = program.end(225)
    assert "not delivered" not in said
    for server in servers:
        assert server.points() == losses(225), server.name
        server.check_understood()
    assert "everything has been delivered" in program.resume(env=env)


def test_what_a_session_logs_is_on_every_server(train: Train, serve: Serve) -> None:
    """All methods of a session at once: each server understands what it is sent, refuses none of it, and has the numbers once.
    Which form each has stands in the tests of its tracker."""
    servers = [serve(name) for name in SERVERS]
    env: dict[str, str | None] = {"TRACELET_BACKEND": ",".join(SERVERS), "TRACELET_EXIT_TIMEOUT": "150"}
    for server in servers:
        env |= server.env
    program = train(
        """
import tracelet_shim
session = tracelet_shim.get_session()
session.log_params({"lr": 0.1, "model": {"depth": 3}})
session.set_tags({"stage": "try"})
writer = SummaryWriter("runs/x")
reach("begun")
log(0, 20)
os.mkdir("data")
for name in ("a.txt", "b.txt"):
    with open(f"data/{name}", "w") as file:
        file.write(name)
session.log_metrics({"acc": 0.25}, step=1)
session.log_text("notes", "as they are", step=1)
session.log_table("errors", [{"image": 17, "seen": "cat"}, {"image": 23, "seen": None}], step=1)
session.log_artifact("data", type="dataset", aliases=["first"])
session.log_artifact("data/a.txt")
session.log_model("data/b.txt", "net", register_as="nets", aliases=["prod"])
session.set_summary({"best": 0.5})
session.alert("odd", "loss is high", "warning")
""",
        env=env, exit_timeout=150,
    )  # fmt: skip
    said = program.end(20)
    assert "not delivered" not in said
    assert "refused" not in said
    for server in servers:
        assert [point for point in server.points() if point[0] in ("acc", "loss")] == [("acc", 1, 0.25), *losses(20)], server.name
        server.check_understood()
    assert "everything has been delivered" in program.resume(env=env)
