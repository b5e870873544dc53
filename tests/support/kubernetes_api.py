"""An API server for KubeRay's objects, as far as a client can tell: tokens, rights, versions, patches, watches.

Written after Kubernetes' API conventions. Objects are in memory; what an operator does to them, tests do
through `write`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]
TOKEN = "a-token"
PLURALS = {"rayclusters": "RayCluster", "rayjobs": "RayJob", "rayservices": "RayService"}


class KubernetesApi:
    """denied: Verb and plural of what is not allowed. before_patch: Called ahead of each one, once."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.denied: set[tuple[str, str]] = set()
        self.installed = True
        self.failing = 0  # requests that are answered 503 from now on
        self.expired_watches = 0  # watches that are told that their version is too old
        self.before_patch: list[Callable[[], None]] = []
        self.requests: list[tuple[str, str]] = []
        self._version = 100
        self._events: list[tuple[int, str, Object]] = []
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()
        self.url = ""

    def __enter__(self) -> KubernetesApi:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def kubeconfig(self, folder: Path, *, token: str = TOKEN, server: str = "") -> Path:
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server or self.url}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": "me", "namespace": "lakehouse"},
                }
            ],
        }
        path.write_text(json.dumps(document))
        return path

    def write(self, plural: str, found: Object, event: str = "MODIFIED") -> Object:
        """Put an object as it is now, under its next version. From any thread."""
        found = copy.deepcopy(found)
        metadata = found["metadata"]
        metadata.setdefault("namespace", "lakehouse")
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        key = plural, metadata["namespace"], metadata["name"]
        if event == "DELETED":
            self.objects.pop(key)
        else:
            self.objects[key] = found
        self._events.append((self._version, event, found))
        return copy.deepcopy(found)

    def get(self, plural: str, name: str) -> Object:
        return copy.deepcopy(self.objects[plural, "lakehouse", name])

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._up.set()
        self._loop.run_forever()
        assert self._runner is not None
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._border])
        all_ = "/apis/ray.io/v1/namespaces/{namespace}/{plural}"
        app.add_routes(
            [
                web.get(all_, self._list),
                web.post(all_, self._create),
                web.get(all_ + "/{name}", self._get),
                web.patch(all_ + "/{name}", self._patch),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @web.middleware
    async def _border(self, request: web.Request, handler: Any) -> web.StreamResponse:
        verb = {"GET": "get", "POST": "create", "PATCH": "patch"}[request.method]
        if "name" not in request.match_info and request.method == "GET":
            verb = "watch" if request.query.get("watch") else "list"
        plural = request.match_info.get("plural", "")
        self.requests.append((verb, plural))
        if self.failing:
            self.failing -= 1
            return _status(503, "ServiceUnavailable", "etcd is away", {"Retry-After": "1"})
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized", "Unauthorized")
        if (verb, plural) in self.denied:
            return _status(403, "Forbidden", f"{plural}.ray.io is forbidden: cannot {verb}")
        if not self.installed or plural not in PLURALS:
            return web.Response(status=404, text="404 page not found\n")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        plural, namespace = request.match_info["plural"], request.match_info["namespace"]
        items = [o for (p, n, _), o in self.objects.items() if (p, n) == (plural, namespace)]
        metadata = {"resourceVersion": str(self._version)}
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        found = self.objects.get(_key(request))
        return web.json_response(found) if found else _missing(request)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        made = await request.json()
        plural, namespace = request.match_info["plural"], request.match_info["namespace"]
        name = made["metadata"]["name"]
        if (plural, namespace, name) in self.objects:
            return _status(409, "AlreadyExists", f'{plural}.ray.io "{name}" already exists')
        if made["kind"] != PLURALS[plural]:
            return _status(422, "Invalid", f"kind {made['kind']} in {plural}")
        return web.json_response(self.write(plural, made, "ADDED"), status=201)

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json-patch+json":
            return _status(415, "UnsupportedMediaType", request.content_type)
        while self.before_patch:
            self.before_patch.pop(0)()
            break
        found = self.objects.get(_key(request))
        if not found:
            return _missing(request)
        changed = copy.deepcopy(found)
        for change in await request.json():
            *way, last = [_index(part) for part in change["path"].split("/")[1:]]
            node: Any = changed
            for part in way:
                node = node[part]
            node[last] = change["value"]
        if changed["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified; please apply your changes to the latest version")  # fmt: skip
        return web.json_response(self.write(request.match_info["plural"], changed))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if self.expired_watches:
            self.expired_watches -= 1
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}  # fmt: skip
            await answer.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return answer
        since = int(request.query["resourceVersion"])
        name = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
        until = self._loop.time() + int(request.query.get("timeoutSeconds", "30"))
        while self._loop.time() < until:
            for version, event, found in list(self._events):
                if version > since and found["metadata"]["name"] == name:
                    since = version
                    line = json.dumps({"type": event, "object": found}).encode() + b"\n"
                    await answer.write(line)
            await asyncio.sleep(0.01)
        return answer


def _key(request: web.Request) -> tuple[str, str, str]:
    info = request.match_info
    return info["plural"], info["namespace"], info["name"]


def _index(part: str) -> str | int:
    return int(part) if part.isdigit() else part


def _missing(request: web.Request) -> web.Response:
    plural, _, name = _key(request)
    return _status(404, "NotFound", f'{plural}.ray.io "{name}" not found')


def _status(
    code: int, reason: str, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}  # fmt: skip
    return web.json_response(body, status=code, headers=headers)
