from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.telemetry.progress import Progress, last_progress

counts = st.integers(0, 10**15)


@given(
    counts,
    counts,
    st.sampled_from(["files", "requests"]),
    st.from_regex(r"[\w, /.]*", fullmatch=True),
)
def test_what_is_said_is_read_back(done: int, total: int, what: str, note: str) -> None:
    progress = Progress(done, total, what, note)
    assert last_progress(["1 of 2 units, old", str(progress), "error: 3 of 4"]) == progress


def test_other_lines_say_nothing_of_it() -> None:
    assert last_progress(["", "two of 7 files, x", "of 7 files", "7 files of 8, x"]) is None
