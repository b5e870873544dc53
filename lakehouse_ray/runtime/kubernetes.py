"""Objects of KubeRay through Kubernetes' API: read, changed, made and watched, each call with an end.

Every refusal becomes one of our errors, which says what to do. The package `kubernetes` (the extra of that
name) reads the kubeconfig and speaks to the server.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lakehouse_ray.errors import (
    ConflictError,
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    UnavailableError,
)

GROUP, VERSION = "ray.io", "v1"
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0

# One watch lasts so long at most; an object that changes seldom is then looked at anew.
WATCH_S = 60.0

# Times a change is made anew because somebody else's came first. The operator and the autoscaler write to the
# same objects every few seconds.
CONFLICTS_MAX = 5

Object = dict[str, Any]


class KubernetesObjects:
    """The objects of KubeRay in one namespace."""

    def __init__(self, client: Any, namespace: str) -> None:
        """client: An `ApiClient` of the package `kubernetes`; see `connect`."""
        from kubernetes.client import CustomObjectsApi

        self._api = CustomObjectsApi(client)
        self.namespace = namespace

    def all(self, kind: str) -> list[Object]:
        with _told(kind, "list", self.namespace):
            found = self._api.list_namespaced_custom_object(*self._place(kind), **_TIMEOUT)
        return [dict(item) for item in _checked(found, "items")["items"]]

    def get(self, kind: str, name: str) -> Object:
        with _told(kind, "get", self.namespace, name):
            found = self._api.get_namespaced_custom_object(*self._place(kind), name, **_TIMEOUT)
        return _checked(found, "metadata")

    def create(self, kind: str, manifest: Mapping[str, Any]) -> Object:
        """Raises ConflictError where the name is taken."""
        name = manifest["metadata"]["name"]
        with _told(kind, "create", self.namespace, name):
            made = self._api.create_namespaced_custom_object(
                *self._place(kind), dict(manifest), **_TIMEOUT
            )
        return _checked(made, "metadata")

    def patch(self, kind: str, seen: Object, changes: Sequence[Mapping[str, Any]]) -> Object:
        """Change an object as it was seen, by JSON Patch.

        Raises ConflictError where it has been changed since: read it, and decide again.
        """
        metadata = seen["metadata"]
        unchanged = {
            "op": "replace",
            "path": "/metadata/resourceVersion",
            "value": metadata["resourceVersion"],
        }
        with _told(kind, "patch", self.namespace, metadata["name"]):
            changed = self._api.patch_namespaced_custom_object(
                *self._place(kind),
                metadata["name"],
                [unchanged, *changes],
                _content_type="application/json-patch+json",
                **_TIMEOUT,
            )
        return _checked(changed, "metadata")

    def changes(self, kind: str, seen: Object, timeout_s: float) -> Iterator[Object]:
        """Yield an object each time it changes, for `timeout_s` at most; the end may come sooner.

        Raises NotFoundError where it is deleted.
        """
        from kubernetes.watch import Watch

        name, version = seen["metadata"]["name"], seen["metadata"]["resourceVersion"]
        seconds = max(1, int(min(timeout_s, WATCH_S)))
        watched = Watch()
        try:
            with _told(kind, "watch", self.namespace, name):
                for event in watched.stream(
                    self._api.list_namespaced_custom_object,
                    *self._place(kind),
                    field_selector=f"metadata.name={name}",
                    resource_version=version,
                    timeout_seconds=seconds,
                    _request_timeout=(CONNECT_TIMEOUT_S, seconds + READ_TIMEOUT_S),
                ):
                    if event["type"] == "DELETED":
                        raise NotFoundError(f"{kind} {name} was deleted meanwhile")
                    yield dict(event["raw_object"])
        except ExpiredError:
            return  # too old to go on from; whoever looks again begins anew
        finally:
            watched.stop()

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURALS[kind]


_TIMEOUT: dict[str, Any] = {"_request_timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)}


class ExpiredError(LakehouseError):
    """The server no longer knows what has changed since then."""


def connect(namespace: str = "", context: str = "") -> KubernetesObjects:
    """By the kubeconfig, or inside a pod by its service account.

    namespace: Empty: that of the context or of the pod, else `default`.

    Raises InvalidError where there is neither, or no such context.
    """
    try:
        from kubernetes import client, config
        from kubernetes.config.kube_config import list_kube_config_contexts
    except ImportError as error:
        raise InvalidError(
            "the package kubernetes is not installed", "pip install 'lakehouse-ray[kubernetes]'"
        ) from error
    configuration = client.Configuration()
    configuration.retries = False
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and not (context or "KUBECONFIG" in os.environ)
    try:
        if inside:
            config.load_incluster_config(client_configuration=configuration)
            own = _namespace_of_the_pod()
        else:
            # The package reads the variable once, when it is imported.
            path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
            config.load_kube_config(path, context or None, configuration)
            contexts, active = list_kube_config_contexts(path)
            chosen = next((one for one in contexts if one["name"] == context), active)
            own = chosen["context"].get("namespace", "")
    except (config.ConfigException, yaml.YAMLError) as error:
        raise InvalidError(
            f"no way to a Kubernetes cluster: {error}",
            "KUBECONFIG names a kubeconfig, --context a context in it (`kubectl config get-contexts`)",
        ) from error
    return KubernetesObjects(client.ApiClient(configuration), namespace or own or "default")


def _namespace_of_the_pod() -> str:
    try:
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _told(kind: str, verb: str, namespace: str, name: str = "") -> Iterator[None]:
    """Errors of the client as ours."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    what = f"{kind} {name}" if name else PLURALS[kind]
    try:
        yield
    except ApiException as error:
        raise _refusal(error, kind, verb, namespace, what) from error
    except (HTTPError, OSError) as error:
        raise UnavailableError(
            f"Kubernetes did not answer ({verb} {what}): {type(error).__name__}. Is the cluster of "
            "`kubectl config current-context` up, and reachable from here?"
        ) from error


def _checked(answer: Any, part: str) -> Object:
    """What the server answered, if it has that part, as each answer of Kubernetes does."""
    if isinstance(answer, dict) and part in answer:
        return answer
    raise InvalidError(
        "what answers at the address of the kubeconfig is no Kubernetes API",
        "`kubectl config view --minify` shows the address; a proxy with a page of its own may be there",
    )


def _refusal(error: Any, kind: str, verb: str, namespace: str, what: str) -> LakehouseError:
    status, said = int(error.status or 0), _said(error)
    if status == 401:
        return DeniedError(
            f"Kubernetes does not know who asks ({verb} {what}): credentials of the kubeconfig are "
            "missing, wrong or expired; log in anew, `kubectl auth whoami` must tell your name"
        )
    if status == 403:
        return DeniedError(
            f"you may not {verb} {PLURALS[kind]} in namespace {namespace}: ask for a role that allows it "
            f"(`kubectl auth can-i {verb} {PLURALS[kind]}.{GROUP} -n {namespace}`)"
        )
    if status == 404 and not said:
        return NotFoundError(
            f"this cluster does not know {PLURALS[kind]}.{GROUP}/{VERSION}",
            "KubeRay's operator with its definitions must be installed (kuberay/README.md, Before)",
        )
    if status == 404:
        return NotFoundError(
            f"no {what} in namespace {namespace}",
            f"`kubectl get {PLURALS[kind]} -A` lists them; --namespace chooses",
        )
    if status == 409:
        return ConflictError(f"{what} is there already or was changed meanwhile: {said}")
    if status == 410:
        return ExpiredError(what)
    if status in (400, 422):
        return InvalidError(f"Kubernetes refuses {what}: {said}")
    wait = (error.headers or {}).get("Retry-After", "")
    return UnavailableError(
        f"Kubernetes answered {status} ({verb} {what}): {said or error.reason}",
        float(wait) if wait.isdigit() else None,
    )


def _said(error: Any) -> str:
    """The message of a `Status`, which only a server that knows the kind answers with."""
    try:
        told = json.loads(error.body)
    except (TypeError, ValueError):
        return str(error.reason or "") if error.body is None else ""
    return str(told.get("message", "")) if isinstance(told, dict) else ""
