"""Workers on two nodes ask an exchange; the account's process, then a worker, is killed. Prints JSON.

With `alone` its successor is taken for one on another machine. A process of its own, since a process
has one connection to Ray.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from support.commands import is_committer
from support.counted_exchange import METHODS, SHARE, Asker, MakeAccount, counted_exchange

from lakehouse_ray.runtime.session import connect
from lakehouse_ray.runtime.shared import shared_by_all
from lakehouse_ray.sources.budget import Limit

LIMIT = Limit("weight", 250, 2.0)
BAN_S = 6.0


def kill_account() -> None:
    [account] = [
        child for child in psutil.Process().children(recursive=True) if is_committer(child)
    ]
    account.kill()


def main() -> None:
    seen: dict[str, Any] = {}
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        with (
            connect(cluster.address) as session,
            # What a killed one left may still be written to.
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            counted_exchange() as exchange,
            shared_by_all(
                MakeAccount(Path(folder), LIMIT, "alone" in sys.argv), "account", methods=METHODS
            ) as account,
        ):
            seen["nodes"] = len(session.view().alive)
            make = ray.remote(num_cpus=1, max_restarts=0)(Asker)
            askers: list[Any] = [make.remote(exchange.url, account) for _ in range(2)]
            asked = [asker.ask_for_s.remote(60.0) for asker in askers]
            while not exchange.arrived:
                for ended in ray.wait(asked, timeout=0.05)[0]:
                    ray.get(ended)  # tells why it could not
            begin_s = time.monotonic()
            time.sleep(8)
            seen["share_used"] = (
                exchange.between(begin_s + 2, begin_s + 8) / 3 / LIMIT.amount / SHARE
            )
            kill_account()
            time.sleep(10)
            seen["after_the_account"] = exchange.between(time.monotonic() - 4, time.monotonic()) / 2
            [pid, *_] = [
                child.pid
                for child in psutil.Process().children(recursive=True)
                if "Asker" in " ".join(child.cmdline()[:1])
            ]
            os.kill(pid, signal.SIGKILL)
            time.sleep(5)
            seen["askers_left"] = len(ray.wait(asked, num_returns=2, timeout=0)[1])
            seen["most"], seen["allowed"] = (
                exchange.most_in_any(LIMIT.window_s),
                LIMIT.amount * SHARE,
            )
            exchange.ban(BAN_S)
            while not exchange.banned_until_s:
                time.sleep(0.01)
            time.sleep(0.5)
            kill_account()
            until_s = exchange.banned_until_s
            time.sleep(max(0.0, until_s - time.monotonic()) + 6)
            # What had been sent already arrives within the latency.
            seen["while_banned"] = exchange.between(exchange.ban_told_s + 0.5, until_s)
            seen["after_the_ban"] = exchange.between(until_s, time.monotonic())
            seen["most_after"] = exchange.most_in_any(LIMIT.window_s)
    finally:
        cluster.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
