"""S3 servers on loopback: moto in this process, SeaweedFS (which checks signatures) beside it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer

from lakehouse_ray.storage.objects import S3Access

KEY_ID = "lake-key-id"
SECRET = "lake-secret-0123456789"
REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """A bucket that is there, and how it is reached."""

    name: str
    endpoint_url: str

    @property
    def access(self) -> S3Access:
        return S3Access(self.endpoint_url, REGION, KEY_ID, SECRET)

    @property
    def client(self) -> Any:
        return _client(self.endpoint_url)

    def settings(self, prefix: str) -> dict[str, str]:
        """Settings of a lake that lives below a prefix of it."""
        return {
            "STORAGE__ROOT": f"s3://{self.name}/{prefix}",
            "STORAGE__S3__ENDPOINT_URL": self.endpoint_url,
            "STORAGE__S3__REGION": REGION,
            "STORAGE__S3__ACCESS_KEY_ID": KEY_ID,
            "STORAGE__S3__SECRET_ACCESS_KEY": SECRET,
        }

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by its path there; what marks a folder is no object."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        ):
            for entry in page.get("Contents", ()):
                key = entry["Key"]
                if not key.endswith("/"):
                    body = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
                    found[key.removeprefix(prefix).lstrip("/")] = body
        return found


@contextmanager
def moto() -> Iterator[Bucket]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield emptied(f"http://{host}:{port}")
    finally:
        server.stop()


def emptied(url: str) -> Bucket:
    """The bucket of moto at an address. What it holds is the process's: another's would still be there."""
    reset = urllib.request.Request(f"{url}/moto-api/reset", method="POST")
    with urllib.request.urlopen(reset, timeout=30):
        pass
    return _made(url)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Bucket]:
    identity = {
        "name": "lake",
        "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    # Each of its servers also answers gRPC 10,000 ports higher.
    master, volume, filer, s3 = free_ports(4)
    command = [
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}",
        "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={folder}/s3.json",
        "-master.volumeSizeLimitMB=64", "-volume.max=50",
    ]  # fmt: skip
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            yield _made(f"http://127.0.0.1:{s3}")
        finally:
            process.kill()  # in order it would take 25 s, for data that nobody wants any more


def _made(endpoint_url: str, patience_s: float = 60) -> Bucket:
    """Make the bucket `lake` as soon as the server lets us."""
    until = time.monotonic() + patience_s
    while True:
        try:
            client = _client(endpoint_url)
            client.create_bucket(Bucket="lake")
            client.put_object(Bucket="lake", Key="ready", Body=b"1")
            client.delete_object(Bucket="lake", Key="ready")
            return Bucket("lake", endpoint_url)
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@cache
def _client(endpoint_url: str) -> Any:
    """One for all threads: making it takes longer than most of its calls."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=30),
    )


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        # At random: another process of these tests may be looking at the same moment.
        for port in random.sample(range(21000, 30000, 7), 200):
            pair = [stack.enter_context(socket.socket()) for _ in range(2)]
            with contextlib.suppress(OSError):
                for one, number in zip(pair, (port, port + 10_000), strict=True):
                    one.bind(("127.0.0.1", number))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")
