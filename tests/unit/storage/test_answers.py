from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.fills import Fill, RawAnswer
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.storage.answers import Kept, keep, open_pack
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
    kept = [Kept(FILL, tuple(given_), spoiled), Kept(FILL, ())]
    pack = keep(store, kept, NOW_US)
    assert open_pack(store, pack.path, pack.sha256) == kept
    assert str(BronzePath.parse(pack.path)) == pack.path


def test_a_pack_that_changed_is_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    pack = keep(store, [Kept(FILL, ())], NOW_US)
    assert pack.path.startswith("bronze/binance/rest/um/klines/2026-03-31@")
    data = bytearray(store.get(pack.path))
    data[-1] ^= 1
    store.put(pack.path, bytes(data))
    with pytest.raises(BadDataError, match="CHECKSUM_MISMATCH"):
        open_pack(store, pack.path, pack.sha256)
