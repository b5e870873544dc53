from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.bronze.answers import keep, open_pack
from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.sources.rest import Fetched, RawAnswer, Rows
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.storage.paths import BronzePath

FILL = Fill("um", "klines", "币安人生USDT", "1m", TimeRange(10, 20), 30)
NOW_US = 1_775_000_000_000_000

answers = st.builds(
    RawAnswer,
    st.text(max_size=50),
    st.integers(1, NOW_US),
    st.integers(0, NOW_US),
    st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
)


@given(st.lists(answers, max_size=5), answers)
def test_answers_come_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, given_: list[RawAnswer], spoiled: RawAnswer
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("lake"))
    fetched = [Fetched(FILL, Rows(), tuple(given_), spoiled), Fetched(FILL, Rows(), ())]
    pack = keep(store, fetched, NOW_US)
    first, second = open_pack(store, pack.path, pack.sha256)
    assert first.fill == second.fill == FILL
    assert first.answers == tuple(given_)
    assert second.answers == ()
    assert str(BronzePath.parse(pack.path)) == pack.path


def test_a_pack_that_changed_is_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    pack = keep(store, [Fetched(FILL, Rows(), ())], NOW_US)
    assert pack.path.startswith("bronze/binance/rest/um/klines/2026-03-31@")
    data = bytearray(store.get(pack.path))
    data[-1] ^= 1
    store.put(pack.path, bytes(data))
    with pytest.raises(BadDataError, match="CHECKSUM_MISMATCH"):
        open_pack(store, pack.path, pack.sha256)
