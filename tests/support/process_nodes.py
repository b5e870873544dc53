"""A cloud for Ray's autoscaler whose machines are processes of this one: `ray start`, each for itself.

The autoscaler of the head loads it (`provider.type: external`). What it starts is noted in a folder, by
the node's id, so that whoever started the head can kill a machine, and ends what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

BIN = Path(sys.executable).parent
_UP_TIMEOUT_S = 60.0


class ProcessNodes(FakeMultiNodeProvider):  # type: ignore[misc]
    """Nodes with the CPUs, memory and labels of their type."""

    def _create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        with self.lock:
            folder = Path(self.provider_config["folder"])
            node_id = self._next_hex_node_id()
            kind = tags[TAG_RAY_USER_NODE_TYPE]
            log = folder / f"{node_id}.log"
            command = [
                str(BIN / "ray"), "start", "--block", f"--address={self._gcs_address}",
                f"--num-cpus={resources['CPU']:g}", f"--memory={resources['memory']:.0f}",
                "--object-store-memory=100000000", f"--labels={_spelled(labels)}",
                "--dashboard-agent-listen-port=0",
            ]  # fmt: skip
            environment = os.environ | {
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
                "RAY_CLOUD_INSTANCE_ID": node_id,
                "RAY_NODE_TYPE_NAME": kind,
            }
            with log.open("wb") as out:
                child = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    start_new_session=True,
                )  # fmt: skip
            self._nodes[node_id] = {
                "tags": {
                    TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                    TAG_RAY_USER_NODE_TYPE: kind,
                    TAG_RAY_NODE_NAME: node_id,
                    TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
                    **tags,
                },
                "node": child,
            }
            (folder / f"{node_id}.json").write_text(json.dumps({"kind": kind, "pid": child.pid}))
            # Two that start at once on one machine may both hang.
            until = time.monotonic() + _UP_TIMEOUT_S
            while b"Ray runtime started" not in log.read_bytes() and time.monotonic() < until:
                if child.poll() is not None:
                    break
                time.sleep(0.1)

    def _terminate_node(self, node: dict[str, Any]) -> None:
        end(node["node"].pid)
        node["node"].wait()


def end(pid: int) -> None:
    """End a machine at once, with all that runs on it: it leads a session of its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _spelled(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())
