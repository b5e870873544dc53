"""Secrets in texts that others wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.access.keys import spell_key
from lakehouse_ray.telemetry.redaction import HIDDEN, Redaction

SECRET = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=4, max_size=40)


@given(SECRET, st.text(max_size=40), st.text(max_size=40))
def test_a_known_secret_is_never_left(secret: str, before: str, after: str) -> None:
    told = Redaction([secret])(before + secret + after)
    # What is around it may say it again by chance, or hide it in three stars.
    assert secret not in told.replace(HIDDEN, "") or secret in before + after
    assert HIDDEN in told


def test_of_two_secrets_the_longer_one_is_hidden_whole() -> None:
    assert Redaction(["abcd", "abcdefgh"])("x abcdefgh y") == f"x {HIDDEN} y"


@pytest.mark.parametrize(
    "secret",
    [
        spell_key("abcdefghij", "s" * 43),
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    ],
)
def test_what_looks_like_a_secret_is_hidden_anywhere(secret: str) -> None:
    assert Redaction()(f"failed with {secret}: no") == f"failed with {HIDDEN}: no"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Authorization: Bearer abcdefghijkl", f"Authorization: Bearer {HIDDEN}"),
        ("postgresql://lake:hunter22@db/x", f"postgresql://{HIDDEN}@db/x"),
        ("s3 secret_access_key=hunter22 used", f"s3 secret_access_key={HIDDEN} used"),
        ('{"password": "hunter22"}', f'{{"password": "{HIDDEN}"}}'),
        ("https://b/x?X-Amz-Signature=0abc&a=1", f"https://b/x?X-Amz-Signature={HIDDEN}&a=1"),
    ],
)
def test_what_is_called_a_secret_is_hidden(line: str, told: str) -> None:
    assert Redaction()(line) == told


def test_what_a_run_says_stays_as_it_is() -> None:
    said = 'spot klines 1m: 31 new files, 44,640 new rows\n  ask why: lakehouse sql "select 1"'
    assert Redaction(["hunter22"])(said) == said
