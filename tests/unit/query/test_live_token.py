"""Tokens of followers: read back as written, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.follow import wanted_of
from lakehouse_ray.query.live_token import LiveToken, asked_for, parse_live_token

WANTED = wanted_of("klines", "BTCUSDT,ETHUSDT", "1m", "um")
NUMBERS = st.integers(0, (1 << 63) - 1)
NAMES = st.sampled_from(["silver.klines_hot", "silver.klines_fine", "silver.stream_gap_log"])
VERSIONS = st.dictionaries(NAMES, st.none() | NUMBERS)


@given(
    st.builds(
        LiveToken,
        asked=st.just(asked_for(WANTED)),
        seq=NUMBERS,
        versions=VERSIONS,
        step=st.none() | st.tuples(NAMES, st.none() | NUMBERS),
        at=NUMBERS,
    )
)
def test_a_token_reads_back_as_written(token: LiveToken) -> None:
    assert parse_live_token(token.spell(), WANTED) == token


@given(st.text(max_size=300), st.integers(0, 200), st.integers(1, 255))
def test_what_was_changed_on_its_way_is_refused(text: str, place: int, change: int) -> None:
    token = LiveToken(asked_for(WANTED), 7, {"silver.klines_hot": 9}, None, 0).spell()
    place %= len(token)
    spoiled = token[:place] + chr((ord(token[place]) + change) % 128) + token[place + 1 :]
    for wrong in (text, spoiled, token[:-1], "", "A" * 10_000):
        if wrong != token:
            with pytest.raises(InvalidError):
                parse_live_token(wrong, WANTED)


def test_a_token_is_of_the_rows_it_was_made_for() -> None:
    token = LiveToken(asked_for(WANTED)).spell()
    assert parse_live_token(token, wanted_of("klines", ["ETHUSDT", "BTCUSDT"], "1m", "um"))
    for other in (
        wanted_of("klines", "BTCUSDT", "1m", "um"),
        wanted_of("klines", None, "1m", "um"),
        wanted_of("klines", "BTCUSDT,ETHUSDT", "1h", "um"),
        wanted_of("klines", "BTCUSDT,ETHUSDT", "1m", "cm"),
        wanted_of("aggTrades", "BTCUSDT,ETHUSDT", None, "um"),
    ):
        with pytest.raises(InvalidError, match="other rows"):
            parse_live_token(token, other)


def test_versions_of_an_answer_are_a_place_to_begin() -> None:
    told = "silver.klines_coarse@-,silver.klines_fine@12,silver.klines_hot@34"
    token = parse_live_token(told, WANTED)
    assert token.versions == {
        "silver.klines_coarse": None, "silver.klines_fine": 12, "silver.klines_hot": 34,
    }  # fmt: skip
    with pytest.raises(InvalidError, match="say nothing of"):
        parse_live_token("silver.trades@12", WANTED)
