"""`cluster/aws.yaml` as Ray's launcher reads it, against an account of AWS in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from support.start_commands import CLUSTER, ROOT, document, options

from lakehouse_ray.runtime.allocator import GIB
from lakehouse_ray.settings import ENV_PREFIX, Settings, load_settings

MADE = {"dist", "cluster/secrets/aws.env", "cluster/secrets/ray_token"}


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return document("aws.yaml")


@pytest.fixture(scope="module")
def launched(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The configuration after all that `ray up` does before it starts a machine."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.chdir(ROOT)
        prepared = prepare_config(copy.deepcopy(given))
        validate_config(prepared)
        region = prepared["provider"]["region"]
        ec2 = boto3.client("ec2", region)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(
            VpcId=vpc, CidrBlock="10.0.1.0/24",
            AvailabilityZone=prepared["provider"]["availability_zone"],
        )["Subnet"]["SubnetId"]  # fmt: skip
        group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
        ec2.create_key_pair(KeyName="lakehouse-ray")
        iam = boto3.client("iam")
        for kind in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"lakehouse-ray-{kind}")
        key = tmp_path_factory.mktemp("aws") / "key.pem"
        key.touch()
        prepared["auth"]["ssh_private_key"] = str(key)
        for one in prepared["available_node_types"].values():
            assert one["node_config"].keys() >= {"SubnetIds", "SecurityGroupIds"}
            one["node_config"] |= {"SubnetIds": [subnet], "SecurityGroupIds": [group]}
        yield AWSNodeProvider.fillout_available_node_types_resources(bootstrap_aws(prepared))
        # All of it was named: nothing was made in the account for want of a name.
        assert iam.list_roles()["Roles"] == []
        assert len(ec2.describe_security_groups()["SecurityGroups"]) == 3  # two by default


def test_each_profile_has_machines_that_hold_it(launched: dict[str, Any]) -> None:
    types = dict(launched["available_node_types"])
    assert types.pop(launched["head_node_type"])["resources"]["CPU"] == 0
    profiles = Settings().compute.profiles()
    assert {name: one["resources"] for name, one in types.items()} == {
        name: {"CPU": cpus, "memory": gib * GIB} for name, (cpus, gib) in profiles.items()
    }
    machines = {
        one["InstanceType"]: one
        for one in boto3.client("ec2", launched["provider"]["region"]).describe_instance_types(
            InstanceTypes=sorted({one["node_config"]["InstanceType"] for one in types.values()})
        )["InstanceTypes"]
    }
    for name, one in types.items():
        machine = machines[one["node_config"]["InstanceType"]]
        assert machine["VCpuInfo"]["DefaultVCpus"] >= one["resources"]["CPU"], name
        assert machine["MemoryInfo"]["SizeInMiB"] << 20 >= 1.5 * one["resources"]["memory"], name
        assert one["labels"] == {"lakehouse-ray/profile": name}
        assert (one["min_workers"], one["max_workers"] > 0) == (0, True)
    assert sum(one["max_workers"] for one in types.values()) == launched["max_workers"]


def test_machines_start_and_those_of_ingestion_alone_are_spot(launched: dict[str, Any]) -> None:
    provider = AWSNodeProvider(launched["provider"], launched["cluster_name"])
    ec2 = boto3.client("ec2", launched["provider"]["region"])
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for name, one in launched["available_node_types"].items():
        # A name that only a real account knows.
        config = one["node_config"] | {"ImageId": image}
        (made,) = provider.create_node(config, {"ray-user-node-type": name}, 1).values()
        (found,) = ec2.describe_instances(InstanceIds=[made.id])["Reservations"][0]["Instances"]
        assert found["InstanceType"] == one["node_config"]["InstanceType"]
        kind = "head" if name == "head" else "worker"
        assert found["IamInstanceProfile"]["Arn"].endswith(f"/lakehouse-ray-{kind}")
        assert found.get("InstanceLifecycle") == ("spot" if name == "medium" else None), name


def test_what_nodes_are_started_with_is_what_ray_takes(given: dict[str, Any]) -> None:
    started = {}
    for kind in ("head", "worker"):
        stop, start = given[f"{kind}_start_ray_commands"]
        assert stop.endswith("/bin/ray stop")
        *before, command = (part.strip() for part in start.split(";"))
        assert ". ~/lakehouse/settings.env" in before
        started[kind] = options(command)
    head, worker = started["head"], started["worker"]
    assert head["head"]
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"  # where the launcher puts it
    assert head["dashboard_host"] == "127.0.0.1"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    assert worker["num_cpus"] is None  # as the launcher says, by its type


def test_what_is_sent_is_there(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for remote, local in given["file_mounts"].items():
        assert remote.startswith("/home/ubuntu/lakehouse/")
        assert local in MADE or (ROOT / local).exists(), local
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "cluster/secrets/" in ignored
    lines = (CLUSTER / "aws.env").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.compute.node_label == "lakehouse-ray/profile"
    assert settings.storage.s3.region == given["provider"]["region"]
    assert (told["RAY_AUTH_MODE"], told["RAY_AUTH_TOKEN_PATH"]) == (
        "token", "/home/ubuntu/lakehouse/ray_token",
    )  # fmt: skip
    assert told["RAY_AUTH_TOKEN_PATH"] in given["file_mounts"]
    assert all(name.startswith((ENV_PREFIX, "RAY_")) for name in told)
