"""The head of the cluster this process is connected to: whether it lives, what its autoscaler says."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import (  # type: ignore[attr-defined]
    GetClusterStatusReply,
)
from ray.exceptions import AuthenticationError, RayError

from lakehouse_ray.errors import DeniedError, InvalidError, UnavailableError

AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
_AUTH_TOKEN = "RAY_AUTH_TOKEN"
USE_TLS = "RAY_USE_TLS"
_TLS_FILES = ("RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT", "RAY_TLS_CA_CERT")
_TLS_ADVICE = {
    False: f"Where its nodes speak TLS: {USE_TLS}=1, and {', '.join(_TLS_FILES)}",
    True: f"{USE_TLS} is set: its nodes must speak TLS, know the authority of {_TLS_FILES[1]}, and have "
    f"this address in certificates of the authority of {_TLS_FILES[2]}",
}
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"

# Ray (2.60) ends the whole process, without a word to it, once the head has been silent for a minute.
# A head that is made anew, with its tables kept in Redis, is back before that, or it is too late.
GONE_AFTER_S = 35.0
# Who waits for something of Ray's own may hear nothing: then the process ends with a word after so long.
LAST_WORD_AFTER_S = 42.0
_ASK_TIMEOUT_S = 2.0
_ASK_EVERY_S = 3.0
# Of a command that a service did not answer.
_EXIT_CODE = 7


def own_token() -> str:
    """The token that this process shows a cluster; empty where it is to show none.

    Raises DeniedError where it is to show one and there is none that could be read or sent.
    """
    if os.environ.get(AUTH_MODE) != "token":
        return ""
    loader = AuthenticationTokenLoader.instance()
    try:
        token = str(loader.get_raw_token()) if loader.has_token() else ""
    except AuthenticationError:
        token = ""
    if re.fullmatch(r"[!-~]+", token):
        return token
    # In the order in which Ray looks.
    if os.environ.get(_AUTH_TOKEN):
        place = f"{_AUTH_TOKEN} holds something else"
    elif path := os.environ.get(AUTH_TOKEN_PATH):
        place = f"{path} ({AUTH_TOKEN_PATH}) is no file that can be read and holds one"
    else:
        place = f"{AUTH_TOKEN_PATH} is not set, and there is none in ~/.ray/auth_token"
    raise DeniedError(
        f"{AUTH_MODE}=token asks for a token and there is none: {place}. Set {AUTH_TOKEN_PATH} to a file "
        "that holds the cluster's token"
    )


def check_answers(address: str, timeout_s: float) -> None:
    """Ask the GCS at `address` whether it lives and takes our token.

    ray.init tries a silent one for two minutes and then ends the process, and takes 20 seconds and
    as many lines on stderr to say that a token is wrong (2.60). This takes 20 ms.

    Raises UnavailableError where nobody answers, DeniedError where it refuses the token or there is none,
    InvalidError where there is to be TLS and its certificates cannot be read.
    """
    token = own_token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with _channel(address) as channel:
        try:
            channel.unary_unary(_CHECK_ALIVE)(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise DeniedError(
                    f"the Ray cluster at {address} refuses the token. Set {AUTH_MODE}=token and "
                    f"{AUTH_TOKEN_PATH} to a file that holds the cluster's token"
                ) from error
            raise UnavailableError(
                f"no Ray cluster answers at {address}: {error.details()}. `ray status` on a machine "
                f"of the cluster shows where its head is; ray.address must name it. {_TLS_ADVICE[_has_tls()]}"
            ) from error


def _has_tls() -> bool:
    return os.environ.get(USE_TLS, "0").lower() in ("1", "true")


def _channel(address: str) -> grpc.Channel:
    """As Ray's own clients would have it: with TLS, each side shows a certificate."""
    if not _has_tls():
        return grpc.insecure_channel(address)
    key, certificate, authority = (_pem(name) for name in _TLS_FILES)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate))


def _pem(name: str) -> bytes:
    path = os.environ.get(name, "")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        told = f"names {path}, which cannot be read: {error.strerror}" if path else "is not set"
        raise InvalidError(
            f"{USE_TLS} is set, but {name} {told}",
            f"{', '.join(_TLS_FILES)} name PEM files of this machine",
        ) from error


class Head:
    """Asked every few seconds by whoever would wait for it without end. address: Of its GCS."""

    def __init__(
        self,
        address: str,
        *,
        gone_after_s: float = GONE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gone_after_s = gone_after_s
        self._clock = clock
        self._address = address
        self._silent_since_s: float | None = None

    def check(self) -> bool:
        """Whether it answers now. Raises UnavailableError where it has not for `gone_after_s`."""
        try:
            check_answers(self._address, _ASK_TIMEOUT_S)
        except UnavailableError as error:
            now_s = self._clock()
            if self._silent_since_s is None:
                self._silent_since_s = now_s
            if now_s - self._silent_since_s < self._gone_after_s:
                return False
            raise UnavailableError(
                f"the head of the Ray cluster at {self._address} has not answered for "
                f"{now_s - self._silent_since_s:.0f} s, so the run was given up. What was committed "
                "stays; start the cluster and run the same command again, it goes on from there"
            ) from error
        self._silent_since_s = None
        return True

    def refuses(self, resources: Mapping[str, float]) -> bool:
        """Whether the autoscaler (v2) says that it cannot bring a node for a request of these."""
        try:
            told = GcsClient(self._address).get_cluster_status(timeout_s=_ASK_TIMEOUT_S)
        except (RayError, RuntimeError, OSError):
            return False
        status = GetClusterStatusReply()
        status.ParseFromString(told)
        return any(
            all(request.resources_bundle.get(name) == value for name, value in resources.items())
            for request in status.autoscaling_state.infeasible_resource_requests
        )


@contextmanager
def watched(address: str) -> Iterator[None]:
    """See to it that this process does not end without a word where the head is gone.

    A pool tells it by an error; but whoever waits for an actor, or for Ray to note one, is not heard
    before Ray ends the process. What is committed by then stays, as after any crash.
    """
    head, left = Head(address, gone_after_s=LAST_WORD_AFTER_S), threading.Event()

    def watch() -> None:
        while not left.wait(_ASK_EVERY_S):
            try:
                head.check()
            except UnavailableError as error:
                with contextlib.suppress(OSError):
                    os.write(2, f"error: {error}\n".encode())
                os._exit(_EXIT_CODE)

    threading.Thread(target=watch, name="lakehouse-head", daemon=True).start()
    try:
        yield
    finally:
        left.set()
