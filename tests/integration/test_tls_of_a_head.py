"""Whether a head that speaks TLS answers: with certificates, without, with those of others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.runtime.head import check_answers

pytestmark = pytest.mark.integration

ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


class Alive(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != ALIVE:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda asked, context: b"")


def certificates(folder: Path) -> dict[str, str]:
    """An authority of their own, and one pair of it for both sides, as the operator makes them."""
    folder.mkdir()
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ray")
    for arguments in (
        (*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt"),
        (*new, "-keyout", "tls.key", "-out", "tls.csr"),
        ("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "ext", "-out", "tls.crt"),
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_KEY": f"{folder}/tls.key",
        "RAY_TLS_SERVER_CERT": f"{folder}/tls.crt",
        "RAY_TLS_CA_CERT": f"{folder}/ca.crt",
    }


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return certificates(tmp_path_factory.mktemp("tls") / "known")


@pytest.fixture(scope="module")
def address(known: dict[str, str]) -> Iterator[str]:
    pair = Path(known["RAY_TLS_SERVER_KEY"]), Path(known["RAY_TLS_SERVER_CERT"])
    credentials = grpc.ssl_server_credentials(
        [(pair[0].read_bytes(), pair[1].read_bytes())],
        Path(known["RAY_TLS_CA_CERT"]).read_bytes(),
        require_client_auth=True,
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Alive()])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(autouse=True)
def _no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("RAY_TLS_", "RAY_USE_TLS"))]:
        monkeypatch.delenv(name)


def use(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_certificates_of_its_authority_are_answered(
    address: str, known: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, known)
    check_answers(address, 5)


def test_who_has_none_is_told_of_tls(address: str) -> None:
    with pytest.raises(UnavailableError, match=r"Where its nodes speak TLS: RAY_USE_TLS=1"):
        check_answers(address, 5)


def test_who_has_those_of_another_authority_is_told_so(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, certificates(tmp_path / "others"))
    with pytest.raises(UnavailableError, match=r"know the authority of RAY_TLS_SERVER_CERT"):
        check_answers(address, 5)


@pytest.mark.parametrize(("path", "said"), [("/nowhere", "No such file"), ("", "is not set")])
def test_a_file_that_is_not_there_is_named(
    address: str, known: dict[str, str], monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    use(monkeypatch, known | {"RAY_TLS_SERVER_CERT": path})
    with pytest.raises(InvalidError, match=f"RAY_TLS_SERVER_CERT .*{said}"):
        check_answers(address, 5)
