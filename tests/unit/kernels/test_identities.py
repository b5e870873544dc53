"""A ticker is cut where evidence says so, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

from lakehouse_ray.kernels.identities import Begin, Halt, Life, Listing, cut
from lakehouse_ray.model.timespan import DAY_US, parse_time


def life(first: str, last: str, trade_end: str | None = None) -> Life:
    """Daily bars from one day to another, both counted in."""
    end = parse_time(last) + DAY_US
    return Life(
        parse_time(first), parse_time(last), end, parse_time(trade_end) if trade_end else end
    )


def listing(number: int, first: str, last: str, onboard: str | None = None) -> Listing:
    return Listing(
        number, parse_time(first), parse_time(last), None, "LIT", "USDT",
        onboard_us=parse_time(onboard) if onboard else None,
    )  # fmt: skip


OLD, NEW = life("2021-02-01", "2025-01-31"), life("2025-12-23", "2026-04-01")


def test_rows_alone_are_one_identity_of_unknown_ends() -> None:
    (one,) = cut([OLD], [])
    assert (one.begins_us, one.ends_us, one.same_as_before) == (None, None, None)
    assert one.unexplained_holes == 0


def test_a_hole_without_evidence_cuts_nothing_and_is_counted() -> None:
    (one,) = cut([OLD, NEW], [])
    assert one.lives == (OLD, NEW)
    assert one.unexplained_holes == 1


def test_rows_before_the_onboard_date_are_of_another_contract() -> None:
    contract = listing(1, "2026-05-01", "2026-05-02", "2025-12-23T09:00")
    old, new = cut([OLD, NEW], [contract])
    assert (old.lives, new.lives) == ((OLD,), (NEW,))
    assert (old.listing, new.listing) == (None, contract)
    assert (new.begins_us, new.same_as_before) == (parse_time("2025-12-23T09:00"), "no")
    assert (old.begins_us, old.ends_us) == (None, OLD.row_end_us)


def test_a_contract_whose_own_rows_are_not_stored_does_not_get_those_of_the_old_one() -> None:
    contract = listing(1, "2026-05-01", "2026-05-02", "2025-12-23T09:00")
    old, new = cut([OLD], [contract])
    assert (old.lives, new.lives, new.listing) == ((OLD,), (), contract)


def test_the_first_day_of_a_contract_is_its_own() -> None:
    first = life("2025-12-23", "2025-12-23")
    contract = listing(1, "2026-05-01", "2026-05-02", "2025-12-23T09:00")
    (one,) = cut([first], [contract])
    assert (one.lives, one.begins_us) == ((first,), parse_time("2025-12-23T09:00"))
    assert one.begin_evidence == "onboardDate"
    (one,) = cut([first, life("2026-02-01", "2026-03-01")], [contract])
    assert one.unexplained_holes == 1


def test_a_symbol_that_alone_stood_still_may_be_another_after() -> None:
    halt = Halt(OLD.row_end_us, NEW.first_us, "it alone stood still")
    old, new = cut([OLD, NEW], [], [halt])
    assert (old.same_as_before, new.same_as_before) == (None, "unknown")
    assert (old.ends_us, new.begins_us) == (OLD.row_end_us, NEW.first_us)


def test_a_halt_elsewhere_explains_no_hole() -> None:
    elsewhere = Halt(parse_time("2022-01-01"), parse_time("2022-01-20"), "it alone stood still")
    (one,) = cut([OLD, NEW], [], [elsewhere])
    assert one.unexplained_holes == 1


def test_a_known_reuse_cuts_whatever_is_stored() -> None:
    fact = Begin(parse_time("2025-12-23"), "given to another", "no")
    old, new = cut([OLD, NEW], [], (), [fact])
    assert (old.lives, new.lives, new.same_as_before) == ((OLD,), (NEW,), "no")
    (only_new,) = cut([NEW], [], (), [fact])
    assert (only_new.lives, only_new.begins_us) == ((NEW,), fact.at_us)


def test_the_exchange_names_its_hour_where_a_known_reuse_names_a_day() -> None:
    fact = Begin(parse_time("2025-12-23"), "given to another", "no")
    contract = listing(1, "2026-05-01", "2026-05-02", "2025-12-23T09:00")
    found = cut([OLD, NEW], [contract], (), [fact])
    assert [one.begins_us for one in found] == [None, parse_time("2025-12-23T09:00")]


def test_a_symbol_that_was_away_and_came_back_is_cut_and_not_known_to_be_the_same() -> None:
    before, after = listing(1, "2026-01-01", "2026-01-10"), listing(2, "2026-02-01", "2026-02-03")
    one, other = cut([], [before, after])
    assert (one.listing, other.listing, other.same_as_before) == (before, after, "unknown")
    assert other.begins_us == after.first_seen_us


def test_rows_that_go_on_through_an_absence_are_of_one_asset() -> None:
    before, after = listing(1, "2026-01-01", "2026-01-10"), listing(2, "2026-01-11", "2026-02-03")
    rows = life("2025-12-01", "2026-02-03")
    (one,) = cut([rows], [before, after])
    assert one.listing == after
    other_asset = replace(after, base="LIGHTER")
    assert [o.same_as_before for o in cut([rows], [before, other_asset])] == [None, "no"]


def test_a_contract_ends_when_it_is_delivered_or_as_its_name_says() -> None:
    ended = replace(
        listing(1, "2024-01-01", "2024-06-27"), delivery_us=parse_time("2024-06-28T08:00")
    )
    (one,) = cut([], [ended])
    assert (one.ends_us, one.end_evidence) == (parse_time("2024-06-28T08:00"), "deliveryDate")
    never = replace(ended, delivery_us=parse_time("2100-12-25T08:00"))
    (one,) = cut([], [never])
    assert one.ends_us is None
    (one,) = cut([OLD], [], expiry_us=parse_time("2025-02-01"))
    assert one.ends_us == parse_time("2025-02-01")
