"""Sending to somebody else's service over real HTTP: what is tried again, what is final, what is
never said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest
from support.receiver import Answer, Receiver, receiver

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import DeniedError, InvalidError, LakehouseError, UnavailableError
from lakehouse_ray.sources.addresses import GuardedResolver
from lakehouse_ray.sources.http import HttpClient, RetryPolicy

pytestmark = pytest.mark.integration

CANARY = "T0KEN-c4n4ry"
HOOK = f"/services/{CANARY}?key={CANARY}"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def send(url: str, *, timeout_s: float = 1.0, budget_s: float = 6.0) -> int:
    async def work() -> int:
        policy = RetryPolicy(attempts_max=3, budget_s=budget_s)
        client = HttpClient(1, timeout_s, policy, SystemClock(), GuardedResolver())
        try:
            headers = {"Authorization": f"Bearer {CANARY}"}
            return await client.send("POST", url, b"{}", lambda: headers, called="the hook")
        finally:
            await client.close()

    return asyncio.run(work())


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Answer(500), Answer(503)],
        [Answer(408)],
        [Answer(reset=True)],
        [Answer(hang="headers")],
        [Answer(502), Answer(reset=True)],
    ],
)
def test_a_receiver_that_fails_for_a_moment_gets_it(hook: Receiver, faults: list[Answer]) -> None:
    hook.answers = list(faults)
    assert send(hook.url(HOOK)) == len(faults) + 1 == len(hook.received)
    assert {request.path for request in hook.received} == {HOOK}
    assert {request.body for request in hook.received} == {b"{}"}


def test_a_receiver_that_asks_for_quiet_is_left_alone_so_long(hook: Receiver) -> None:
    hook.answers = [Answer(429, {"Retry-After": "1"})]
    started = time.monotonic()
    assert send(hook.url(HOOK)) == 2
    assert time.monotonic() - started >= 1


def test_an_answer_that_never_ends_is_taken_by_its_status(hook: Receiver) -> None:
    hook.answers = [Answer(hang="body")]
    assert send(hook.url(HOOK)) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "said", "requests"),
    [
        (Answer(404), InvalidError, "the hook does not take it (404 Not Found)", 1),
        (Answer(400), InvalidError, "the hook does not take it (400 Bad Request)", 1),
        (Answer(401), DeniedError, "the hook refused it (401 Unauthorized)", 1),
        (Answer(403), DeniedError, "the hook refused it (403 Forbidden)", 1),
        (Answer(307, {"Location": "/other"}), InvalidError, "redirects are not followed", 1),
        (Answer(500), UnavailableError, "gave up after 3 attempts", 3),
        (
            Answer(429, {"Retry-After": "3600"}),
            UnavailableError,
            "the server asks for 3600 s of quiet",
            1,
        ),
        (Answer(hang="headers"), UnavailableError, "no answer in time", 3),
        (Answer(reset=True), UnavailableError, "the connection failed", 3),
    ],
)
def test_a_refusal_is_final_at_once_and_a_failure_after_so_many_attempts(
    hook: Receiver,
    answer: Answer,
    kind: type[LakehouseError],
    said: str,
    requests: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.answers = [answer] * 10
    with pytest.raises(kind) as caught:
        send(hook.url(HOOK))
    assert said in str(caught.value)
    assert len(hook.received) == requests
    heard = capfd.readouterr()
    assert CANARY not in f"{caught.value} {caught.value.hint} {caplog.text} {heard.out} {heard.err}"


def test_nobody_listening_is_told_without_the_address() -> None:
    with pytest.raises(UnavailableError) as caught:
        send(f"http://127.0.0.1:1{HOOK}")
    assert str(caught.value) == (
        "the hook: cannot be reached (Connection refused); gave up after 3 attempts"
    )


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xA9FEA9FE", "[::ffff:169.254.169.254]", "0.0.0.0"]
)
def test_metadata_services_are_never_asked(host: str) -> None:
    with pytest.raises(InvalidError) as caught:
        send(f"http://{host}{HOOK}")
    assert CANARY not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(hook.url(HOOK)) == 1
