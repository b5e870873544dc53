"""Say why rows are missing, by what else is known of that time.

A gap comes with facts (`FACTS`); the first rule that fits names the cause, and the evidence tells
the facts that made it fit. Nothing is guessed: where facts are missing the cause is `unknown`. An
outage is claimed on a known date, or where many symbols of the market stood still at once inside
files that are whole; never because one symbol did.
"""

from __future__ import annotations

import polars as pl

from lakehouse_ray.model.outages import OUTAGES, SLACK_US
from lakehouse_ray.model.timespan import format_time

# So many symbols must have been silent at once, the one asked about included, and such a share.
OUTAGE_SYMBOLS_MIN = 5
OUTAGE_SHARE_MIN = 0.8

_TIME = pl.Datetime("us", "UTC")

# What is known of each gap. Null: not known.
FACTS = pl.Schema(
    {
        # Before the symbol's first row ever seen, after its last one, or between.
        "place": pl.Enum(["before", "inside", "after"]),
        # The known outage in which it lies, in words.
        "outage": pl.String(),
        # Other symbols with rows before and after it, and those of them that have rows in it.
        "alive": pl.Int64(),
        "showing": pl.Int64(),
        # Files whose rows are in silver cover all of it; one of them.
        "covered": pl.Boolean(),
        "file": pl.String(),
        # It begins after a file's start, or ends before a file's end: no whole files are missing.
        "cut": pl.Boolean(),
        # Files of this very series whose rows are in silver end where it begins, and begin where it
        # ends: what is absent between them was to be expected.
        "adjoined": pl.Boolean(),
        # An object for that time that is not in silver, and why; rows refused from the files.
        "refused": pl.String(),
        "refused_reason": pl.String(),
        "refused_rows": pl.Int64(),
        # Another series of the symbol that has rows with trades then, and how many.
        "other": pl.String(),
        "other_rows": pl.Int64(),
        # Another series whose rows of that time count no trade.
        "idle": pl.String(),
        # Trade ids run on across it without a hole.
        "ids_joined": pl.Boolean(),
        # What says that the symbol ended: its name, or other symbols that go on.
        "ended": pl.String(),
        # A file that might tell otherwise cannot be read: what it says.
        "unread": pl.String(),
    }
)


def known_outages(gaps: pl.DataFrame, market: str) -> pl.DataFrame:
    """Return `start_time, end_time, outage` of each distinct hole that lies in a known outage."""
    holes = gaps.select("start_time", "end_time").unique()
    known = [outage for outage in OUTAGES if outage.market == market]
    table = pl.DataFrame(
        {
            "o_start": [outage.start_us for outage in known],
            "o_end": [outage.end_us for outage in known],
            "outage": [
                f"{format_time(outage.start_us)} to {format_time(outage.end_us)}, {outage.source}"
                for outage in known
            ],
        },
        schema={"o_start": pl.Int64, "o_end": pl.Int64, "outage": pl.String},
    ).with_columns(pl.col("o_start", "o_end").cast(_TIME))
    slack = pl.duration(microseconds=SLACK_US)
    return (
        holes.join(table, how="cross")
        .filter(
            pl.col("start_time") >= pl.col("o_start") - slack,
            pl.col("end_time") <= pl.col("o_end") + slack,
            pl.col("start_time") < pl.col("o_end"),
            pl.col("end_time") > pl.col("o_start"),
        )
        .select("start_time", "end_time", "outage")
        .unique(["start_time", "end_time"], keep="first")
    )


def alive_around(gaps: pl.DataFrame, lives: pl.DataFrame) -> pl.DataFrame:
    """Return `start_time, end_time, alive` of each distinct hole of `gaps`.

    lives: `symbol, first_time, last_time` of all symbols of the same series. The symbol that has
        the hole is alive around it itself and is taken off.
    """
    holes = gaps.select("start_time", "end_time").unique()
    return (
        holes.join_where(
            lives,
            pl.col("first_time") < pl.col("start_time"),
            pl.col("last_time") >= pl.col("end_time"),
        )
        .group_by("start_time", "end_time")
        .agg((pl.len().cast(pl.Int64) - 1).alias("alive"))
    )


def file_facts(gaps: pl.DataFrame, objects: pl.DataFrame, edge_us: int = 0) -> pl.DataFrame:
    """Return `symbol, start_time` and what the ledger tells of each gap.

    objects: `symbol, period_start, period_end, key, built, reason, rows_quarantined`; `built` says
        that rows of some version of it are in silver, `reason` why its latest version is not.
    edge_us: How far from its period's edge a file's first and last row may belong.
    """
    key = ["symbol", "start_time"]
    holes = gaps.select("symbol", "start_time", "end_time")
    edge = pl.duration(microseconds=edge_us)
    merged = _merged(objects.filter("built"))
    # What touches the hole: the stretch it begins in and the one it ends in.
    beside = holes.join(merged, on="symbol")
    near = beside.filter(
        pl.col("period_start") < pl.col("end_time"), pl.col("period_end") > pl.col("start_time")
    )
    stretches = near.group_by(key).agg(
        covered=(
            pl.min_horizontal("period_end", "end_time")
            - pl.max_horizontal("period_start", "start_time")
        ).sum()
        == (pl.col("end_time") - pl.col("start_time")).first(),
        cut=(
            (pl.col("period_start") < pl.col("start_time"))
            & (pl.col("period_end") > pl.col("start_time") + edge)
        ).any()
        | (
            (pl.col("period_start") + edge < pl.col("end_time"))
            & (pl.col("period_end") > pl.col("end_time"))
        ).any(),
    )
    adjoining = beside.group_by(key).agg(
        adjoined=pl.col("period_end")
        .is_between(pl.col("start_time") - edge, pl.col("start_time") + edge)
        .any()
        & pl.col("period_start")
        .is_between(pl.col("end_time") - edge, pl.col("end_time") + edge)
        .any()
    )
    over = holes.join(objects, on="symbol").filter(
        pl.col("period_start") < pl.col("end_time"), pl.col("period_end") > pl.col("start_time")
    )
    files = over.group_by(key).agg(
        file=pl.col("key").filter("built").first(),
        refused=pl.col("key").filter(pl.col("reason").is_not_null()).first(),
        refused_reason=pl.col("reason").drop_nulls().first(),
        refused_rows=pl.col("rows_quarantined").filter("built").sum(),
    )
    return (
        holes.select(key)
        .join(stretches, on=key, how="left")
        .join(adjoining, on=key, how="left")
        .join(files, on=key, how="left")
        .with_columns(
            pl.col("covered", "cut", "adjoined").fill_null(False),
            pl.col("refused_rows").fill_null(0),
        )
    )


def _merged(objects: pl.DataFrame) -> pl.DataFrame:
    """Periods of files joined where they touch or overlap: `symbol, period_start, period_end`."""
    ordered = objects.select("symbol", "period_start", "period_end").sort("symbol", "period_start")
    reach = pl.col("period_end").cum_max().shift(1).over("symbol")
    apart = (pl.col("period_start") > reach).fill_null(True)
    return (
        ordered.with_columns(stretch=apart.cum_sum())
        .group_by("symbol", "stretch")
        .agg(pl.col("period_start").min(), pl.col("period_end").max())
        .drop("stretch")
    )


def classify(gaps: pl.DataFrame) -> pl.DataFrame:
    """Add `cause` (`model.gaps.CAUSES`) and `evidence` to gaps that come with `FACTS`.

    A column of facts that is absent counts as null: not known.
    """
    missing = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in FACTS.items()
        if name not in gaps.columns
    ]
    known = gaps.with_columns(missing).with_columns(
        pl.col("place").cast(pl.String).fill_null("inside"),
        pl.col("covered", "cut", "adjoined", "ids_joined").fill_null(False),
        pl.col("refused_rows", "other_rows").fill_null(0),
        silent=pl.col("alive") - pl.min_horizontal("alive", "showing"),
    )
    cause, evidence = pl.lit("unknown"), pl.lit("")
    # The first rule that fits counts, so they are laid on from the last one.
    for rule, name, words in reversed(_rules()):
        cause = pl.when(rule).then(pl.lit(name)).otherwise(cause)
        evidence = pl.when(rule).then(words).otherwise(evidence)
    return known.with_columns(cause=cause, evidence=evidence).drop(
        "silent", *[column.meta.output_name() for column in missing]
    )


def _rules() -> list[tuple[pl.Expr, str, pl.Expr]]:
    """Rule, cause, evidence; the first that fits counts (null counts as no)."""
    place, ended = pl.col("place"), pl.col("ended")
    silent, alive = pl.col("silent"), pl.col("alive")
    many = (silent + 1 >= OUTAGE_SYMBOLS_MIN) & (silent + 1 >= OUTAGE_SHARE_MIN * (alive + 1))
    others_show = pl.col("showing") > 0
    in_files = pl.col("covered") | pl.col("cut")
    has_rows = pl.format("{} have {} rows then", "other", "other_rows")
    rules: list[tuple[pl.Expr, str, pl.Expr]] = [
        (
            pl.col("unread").is_not_null() & ((place != "inside") | pl.col("outage").is_null()),
            "unknown",
            pl.format("what would tell why cannot be read: {}", "unread"),
        ),
        (place == "before", "not_listed", pl.lit("it ends where the symbol's first row begins")),
        (
            (place == "after") & ended.is_not_null(),
            "delisted",
            pl.format("it begins after the symbol's last row; {}", ended),
        ),
        (
            (place == "after") & in_files,
            "delisted",
            pl.lit("it begins after the symbol's last row, inside a verified file"),
        ),
        (
            place == "after",
            "unknown",
            pl.lit(
                "it begins after the symbol's last row; nothing stored is later, so whether trading "
                "ended or files are still to come is not known"
            ),
        ),
        (
            pl.col("outage").is_not_null(),
            "outage",
            pl.format("known outage, {}; {}", "outage", _peers()),
        ),
        (
            pl.col("refused").is_not_null() & ~pl.col("covered"),
            "own_loss",
            pl.format("{} was refused: {}", "refused", "refused_reason"),
        ),
        (
            many & pl.col("covered"),
            "outage",
            pl.format("{}; all files of that time are verified and lack it", _peers()),
        ),
        (
            pl.col("covered") & (pl.col("refused_rows") >= pl.col("missing")),
            "own_loss",
            pl.format("{} rows of its files were refused, {}", "refused_rows", "file"),
        ),
        (
            pl.col("other_rows") > 0,
            "archive_hole",
            pl.format("{}; {}", has_rows, _files()),
        ),
        (
            pl.col("ids_joined"),
            "no_trades",
            pl.format("trade ids run on across it without a hole; {}", _peers()),
        ),
        (
            pl.col("idle").is_not_null(),
            "no_trades",
            pl.format("{} count no trade in it; {}", "idle", _peers()),
        ),
        (
            pl.col("refused").is_not_null(),
            "own_loss",
            pl.format("{} was refused: {}; {}", "refused", "refused_reason", _files()),
        ),
        (
            in_files & others_show,
            "halted",
            pl.format("{}; {}", _files(), _peers()),
        ),
    ]
    rules = [(rule.fill_null(False), cause, words) for rule, cause, words in rules]
    # What is left is not known; say at least what was looked at.
    rules.append((pl.lit(True), "unknown", pl.format("{}; {}", _files(), _peers())))
    return rules


def _peers() -> pl.Expr:
    alive, silent = pl.col("alive"), pl.col("silent")
    return (
        pl.when(alive.is_null() | silent.is_null() | pl.col("unread").is_not_null())
        .then(pl.lit("other symbols were not compared"))
        .when(alive == 0)
        .then(pl.lit("no other symbol is stored around it"))
        .otherwise(
            pl.format("{} of {} other symbols have rows then", alive - silent, alive),
        )
    )


def _files() -> pl.Expr:
    return (
        pl.when(pl.col("covered") & pl.col("file").is_not_null())
        .then(pl.format("its verified files have no rows of it ({})", "file"))
        .when(pl.col("cut"))
        .then(pl.lit("it begins or ends inside a verified file"))
        .when(pl.col("adjoined"))
        .then(pl.lit("no file of that time is in the lake, from edge to edge of files"))
        .otherwise(
            pl.format(
                "nobody has its files from {} to {}, nor verified ones that adjoin these on both "
                "sides: they may be in the archive",
                *(
                    pl.col(name).dt.strftime("%Y-%m-%dT%H:%MZ")
                    for name in ("start_time", "end_time")
                ),
            )
        )
    )
