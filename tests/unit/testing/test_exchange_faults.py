"""Fault files: what is read, what is refused with which help, and what chance decides."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange import FAULTS, Faults, Rule, faults

MONTH = "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip"


def test_the_example_of_the_documentation_is_a_valid_file() -> None:
    text = faults.__doc__ or ""
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    rules = Faults.parse("\n".join(indented), "toml")
    assert rules.seed == 7
    names = [rule.fault for rule in rules.rules]
    of_files, of_streams = names[:4], names[4:]
    assert of_files == ["corrupt_zip", "server_error", "slow", "republished"]
    assert of_streams == ["messages_skipped", "half_open"]
    assert rules.rules[0].params["checksum"] == "fresh"
    assert rules.rules[1].times == 2
    assert [rule.matches(MONTH) for rule in rules.rules[:4]] == [True, False, True, False]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_is_usable_by_name_alone(name: str) -> None:
    rule = Rule("*", name)
    assert rule.params == dict(FAULTS[name].defaults)
    document = {"rules": [{"match": "*", "fault": name, **FAULTS[name].defaults}]}
    assert Faults.parse(json.dumps(document), "json").rules == (rule,)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"rules": [{"match": "*", "fault": "corupt_zip"}]}, "did you mean 'corrupt_zip'"),
        ({"rules": [{"match": "*", "fault": "slow", "speed": 1}]}, "parameter of slow: 'speed'"),
        ({"rules": [{"match": "*", "fault": "slow", "bytes_per_s": "1"}]}, "give a number"),
        ({"rules": [{"match": "*", "fault": "slow", "bytes_per_s": -1}]}, "0 or more"),
        ({"rules": [{"match": "*", "fault": "server_error", "status": 5.5}]}, "an integer"),
        ({"rules": [{"match": "*", "fault": "server_error", "status": True}]}, "an integer"),
        (
            {"rules": [{"match": "*", "fault": "corrupt_zip", "checksum": "no"}]},
            "'fresh' or 'stale'",
        ),
        ({"rules": [{"match": "*", "fault": "republished", "then": "x"}]}, "'stale_values'"),
        ({"rules": [{"match": "*", "fault": "slow", "times": -1}]}, "'times' of slow"),
        ({"rules": [{"match": "*", "fault": "slow", "probability": 2}]}, "give 0 to 1"),
        ({"rules": [{"match": "", "fault": "slow"}]}, "give a glob"),
        ({"rules": [{"fault": "slow"}]}, "needs 'match' and 'fault'"),
        ({"rules": ["slow"]}, "list of objects"),
        ({"rule": []}, "did you mean 'rules'"),
        ({"seed": "x"}, "give an integer"),
        ([], "an object"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_help(document: object, words: str) -> None:
    with pytest.raises(InvalidError, match=re.escape(words)):
        Faults.parse(json.dumps(document), "json")


def test_an_unknown_fault_is_answered_with_all_that_exist() -> None:
    with pytest.raises(InvalidError) as caught:
        Rule("*", "gremlins")
    assert all(name in caught.value.hint for name in FAULTS)


@pytest.mark.parametrize(
    ("name", "text"), [("f.yaml", "{}"), ("f.json", "{"), ("f.toml", "= 1"), ("f.json", "\xff")]
)
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidError):
        Faults.load(path)
    with pytest.raises(InvalidError, match="cannot be read"):
        Faults.load(tmp_path / "absent.json")


def test_both_forms_of_a_file_say_the_same(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "a.json", tmp_path / "a.toml"
    as_json.write_text('{"seed": 3, "rules": [{"match": "a*", "fault": "reset", "times": 1}]}')
    as_toml.write_text('seed = 3\n[[rules]]\nmatch = "a*"\nfault = "reset"\ntimes = 1\n')
    assert Faults.load(as_json) == Faults.load(as_toml)


def test_chance_depends_on_seed_rule_key_and_occasion_alone() -> None:
    one, other = Faults(seed=1), Faults(seed=2)
    assert one.draw(0, "a").random() == Faults(seed=1).draw(0, "a").random()
    draws = [one.draw(0, "a"), one.draw(1, "a"), one.draw(0, "b"), one.draw(0, "a", 1)]
    assert len({draw.random() for draw in [*draws, other.draw(0, "a")]}) == 5
