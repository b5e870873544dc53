"""Which snapshots may go, held against a reader's and a time traveller's view of the same history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.storage.retention import DAY_MS, Era, Retention, expired

HOUR_MS = 3_600_000
NOW_MS = 1000 * DAY_MS + 7 * HOUR_MS


def history(starts_ms: list[int]) -> list[Era]:
    ends: list[int | None] = [*starts_ms[1:], None]
    return [Era(i, s, e) for i, (s, e) in enumerate(zip(starts_ms, ends, strict=True))]


def current_at(eras: list[Era], ms: int) -> int:
    return max(era.snapshot_id for era in eras if era.start_ms <= ms)


starts = st.lists(
    st.integers(0, 200 * 24).map(lambda h: NOW_MS - h * HOUR_MS),
    min_size=1,
    max_size=40,
    unique=True,
).map(sorted)
policies = st.builds(
    Retention,
    age_ms=st.integers(0, 30 * 24).map(lambda h: h * HOUR_MS),
    count_min=st.integers(1, 5),
    daily_days=st.integers(0, 60),
    reader_ms=st.integers(1, 5).map(lambda h: h * HOUR_MS),
)


@given(starts, policies, st.data())
def test_whatever_may_still_be_asked_for_stays(
    starts_ms: list[int], policy: Retention, data: st.DataObject
) -> None:
    eras = history(starts_ms)
    named = data.draw(st.sets(st.sampled_from([era.snapshot_id for era in eras])))
    gone = set(expired(eras, policy, NOW_MS, named))
    assert not gone & named
    assert not gone & {era.snapshot_id for era in eras[-policy.count_min :]}
    # Whoever opened the table at any moment within the bounds has what was current then.
    for age in (policy.age_ms, policy.reader_ms):
        for ms in range(NOW_MS - age, NOW_MS + 1, HOUR_MS):
            if ms >= eras[0].start_ms:
                assert current_at(eras, ms) not in gone
    # As of every midnight of the days that are kept.
    midnight = NOW_MS // DAY_MS * DAY_MS
    while midnight >= max(NOW_MS - policy.daily_days * DAY_MS, eras[0].start_ms + 1):
        assert current_at(eras, midnight - 1) not in gone
        midnight -= DAY_MS


def test_what_nobody_can_ask_for_goes() -> None:
    day = 1000 * DAY_MS
    eras = history([day - 10 * DAY_MS + i * HOUR_MS for i in range(5)] + [day])
    policy = Retention(age_ms=DAY_MS, count_min=1, daily_days=0, reader_ms=HOUR_MS)
    # The last of the five was current until just now.
    assert expired(eras, policy, NOW_MS) == [0, 1, 2, 3]
    assert expired(eras, policy, NOW_MS, [1]) == [0, 2, 3]


def test_the_age_of_a_snapshot_is_that_of_its_end() -> None:
    eras = history([0, NOW_MS - 60_000])
    policy = Retention(age_ms=0, count_min=1, daily_days=0, reader_ms=HOUR_MS)
    assert expired(eras, policy, NOW_MS) == []
    assert expired(eras, policy, NOW_MS + 2 * HOUR_MS) == [0]
