"""Cutting a ticker into the assets or contracts that it meant, by evidence alone.

All times are UTC microseconds. What is not known is None or `unknown`, and never made up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lakehouse_ray.model.timespan import DAY_US, parse_time

# A perpetual contract is delivered in the year 2100, until its end is announced.
NEVER_US = parse_time("2100")

# Whether an identity is the same asset or contract as the one that had the ticker before it.
Same = Literal["no", "unknown"]


@dataclass(frozen=True)
class Life:
    """Rows without a long hole (`query.lives.RUNS`). trade_end_us: None: no row has a trade."""

    first_us: int
    last_us: int
    row_end_us: int
    trade_end_us: int | None
    days: int = 0


@dataclass(frozen=True)
class Listing:
    """One listing of the ticker by exchangeInfo (`silver.instruments`), in its last state.

    gone_us: When an answer no longer had it so.
    """

    number: int
    first_seen_us: int
    last_seen_us: int
    gone_us: int | None
    base: str
    quote: str
    contract_type: str | None = None
    status: str | None = None
    onboard_us: int | None = None
    delivery_us: int | None = None


@dataclass(frozen=True)
class Halt:
    """The symbol alone stood still. Whether for a while or for good is not known."""

    start_us: int
    end_us: int
    evidence: str


@dataclass(frozen=True)
class Begin:
    """Where another identity of the ticker begins."""

    at_us: int
    evidence: str
    same: Same


@dataclass(frozen=True)
class Identity:
    """What a ticker meant for a time.

    begins_us, ends_us: None: not known.
    same_as_before: None: nothing had the ticker before, as far as is known.
    unexplained_holes: Long holes of its rows of which nothing tells why: on both sides may be
        different assets.
    """

    begins_us: int | None
    begin_evidence: str
    ends_us: int | None
    end_evidence: str
    same_as_before: Same | None
    lives: tuple[Life, ...]
    listing: Listing | None
    unexplained_holes: int

    def holds(self, time_us: int) -> bool:
        """Whether the time lies between its known ends."""
        return (self.begins_us is None or self.begins_us <= time_us) and (
            self.ends_us is None or time_us < self.ends_us
        )

    @property
    def trade_end_us(self) -> int | None:
        ends = [life.trade_end_us for life in self.lives if life.trade_end_us is not None]
        return max(ends, default=None)


def cut(
    lives: Sequence[Life],
    listings: Sequence[Listing],
    halts: Sequence[Halt] = (),
    facts: Sequence[Begin] = (),
    expiry_us: int | None = None,
) -> list[Identity]:
    """Return the identities of one ticker, in the order of time.

    lives: In the order of time. listings: By their numbers.
    facts: Known reuses of the ticker.
    expiry_us: By the name of a delivery contract: not after this.
    """
    begins, unexplained = _begins(lives, listings, halts, facts)
    edges: list[Begin | None] = [None, *begins]
    found = []
    for number, begin in enumerate(edges):
        following = edges[number + 1] if number + 1 < len(edges) else None
        own = [life for life in lives if _place(begins, life.first_us + DAY_US) == number]
        seen = [one for one in listings if _place(begins, one.last_seen_us) == number]
        if begin is None and not own and not seen:
            continue
        between = [us for us in unexplained if _place(begins, us + DAY_US) == number]
        found.append(_identity(begin, following, own, seen, len(between), expiry_us))
    return found


def _place(begins: Sequence[Begin], time_us: int) -> int:
    return sum(begin.at_us <= time_us for begin in begins)


def _begins(
    lives: Sequence[Life],
    listings: Sequence[Listing],
    halts: Sequence[Halt],
    facts: Sequence[Begin],
) -> tuple[list[Begin], list[int]]:
    """Where identities begin, and the ends of holes that nothing explains."""
    found: list[Begin] = []
    unexplained: list[int] = []
    used: set[int] = set()
    for before, after in itertools.pairwise(lives):
        start_us, end_us = before.row_end_us, after.first_us
        begin = _onboard(listings, start_us, end_us + DAY_US)
        if begin is None and any(start_us < fact.at_us <= end_us + DAY_US for fact in facts):
            continue
        if begin is None:
            begin = _relisted(listings, start_us, end_us, used)
        if begin is None:
            begin = _halted(halts, start_us, end_us)
        if begin is None:
            unexplained.append(end_us)
        else:
            found.append(begin)
    if lives:
        # The contract of now came after all rows: they are of another.
        late = _onboard(listings, lives[-1].row_end_us, None)
        if late is not None:
            found.append(late)
    found += [f for f in facts if all(abs(f.at_us - other.at_us) > DAY_US for other in found)]
    for before_listing, listing in itertools.pairwise(listings):
        if listing.number in used or _told(found, before_listing, listing):
            continue
        same = _same(before_listing, listing)
        through = any(
            life.first_us <= before_listing.last_seen_us
            and life.row_end_us >= listing.first_seen_us
            for life in lives
        )
        if not through or same == "no":
            at_us = listing.onboard_us or listing.first_seen_us
            found.append(Begin(at_us, "exchangeInfo lists it again", same))
    return sorted(found, key=lambda begin: begin.at_us), unexplained


def _onboard(listings: Sequence[Listing], after_us: int, until_us: int | None) -> Begin | None:
    for listing in listings:
        onboard_us = listing.onboard_us
        if onboard_us is None or onboard_us < after_us:
            continue
        if until_us is None or onboard_us <= until_us:
            return Begin(onboard_us, "onboardDate lies after the rows before it", "no")
    return None


def _halted(halts: Sequence[Halt], start_us: int, end_us: int) -> Begin | None:
    for halt in halts:
        if halt.start_us <= start_us + DAY_US and start_us < halt.end_us <= end_us + DAY_US:
            return Begin(end_us, halt.evidence, "unknown")
    return None


def _relisted(
    listings: Sequence[Listing], start_us: int, end_us: int, used: set[int]
) -> Begin | None:
    for before, listing in itertools.pairwise(listings):
        if before.last_seen_us < end_us and listing.first_seen_us > start_us:
            used.add(listing.number)
            return Begin(end_us, "exchangeInfo listed it again", _same(before, listing))
    return None


def _told(found: Sequence[Begin], before: Listing, listing: Listing) -> bool:
    """Whether a beginning stands already between two listings."""
    return any(before.last_seen_us < begin.at_us <= listing.last_seen_us for begin in found)


def _same(before: Listing, listing: Listing) -> Same:
    other = (before.base, before.quote) != (listing.base, listing.quote)
    later = listing.onboard_us is not None and listing.onboard_us != before.onboard_us
    return "no" if other or later else "unknown"


def _identity(
    begin: Begin | None,
    following: Begin | None,
    lives: Sequence[Life],
    listings: Sequence[Listing],
    unexplained: int,
    expiry_us: int | None,
) -> Identity:
    listing = listings[-1] if listings else None
    begins_us, begin_evidence = (None, "") if begin is None else (begin.at_us, begin.evidence)
    onboard_us = listing.onboard_us if listing else None
    fits = not lives or (onboard_us is not None and onboard_us <= lives[0].first_us + DAY_US)
    if begin is None and onboard_us is not None and fits:
        begins_us, begin_evidence = onboard_us, "onboardDate"
    ends_us, end_evidence = _end(following, lives, listing, expiry_us)
    return Identity(
        begins_us, begin_evidence, ends_us, end_evidence, begin.same if begin else None,
        tuple(lives), listing, unexplained,
    )  # fmt: skip


def _end(
    following: Begin | None, lives: Sequence[Life], listing: Listing | None, expiry_us: int | None
) -> tuple[int | None, str]:
    delivery_us = listing.delivery_us if listing else None
    if delivery_us is not None and delivery_us < NEVER_US:
        return delivery_us, "deliveryDate"
    if following is not None:
        # It ended somewhere between its last row and the next one's beginning.
        end_us = lives[-1].row_end_us if lives else following.at_us
        return min(
            end_us, following.at_us
        ), "the ticker was given again, or stood still before it was"
    if expiry_us is not None:
        return expiry_us, "its name"
    if listing is not None and listing.gone_us is not None:
        return listing.gone_us, "exchangeInfo no longer has it"
    return None, ""
