"""What a command line names: scorers and data sets, or an error in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from genarm.embedded import BASE, REWARDS
from genarm.errors import InvalidArgumentError
from genarm.evaluation.choices import Choice, base_path, parse_choices, parse_data


def test_scorers_keep_their_kind_and_order() -> None:
    art = str(REWARDS["art"].resolve())
    found = parse_choices(["risk", f"own={art}"], [f"judge={art}"], [f"policy={art}"])
    assert found == [
        Choice("risk", "arm", str(REWARDS["risk"].resolve())),
        Choice("own", "arm", art),
        Choice("judge", "trajectory-rm", art),
        Choice("policy", "dpo", art),
    ]
    assert base_path(None) == str(BASE.resolve())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((["nonsense"], [], []), "names no embedded reward model"),
        ((["art:0.5"], [], []), "takes none"),
        ((["a=/no/such"], [], []), "--reward /no/such: no such folder"),
        (([], ["judge"], []), "write NAME=PATH"),
        (([], [], ["=x"]), "--dpo '=x' cannot be read"),
        (([], ["base=x"], []), "another name"),
        (([], ["a=/no/such"], []), "--trajectory-rm /no/such: no such folder"),
        ((["art"], [], ["art=x"]), "two scorers are named 'art'"),
    ],
)
def test_what_names_no_scorer_is_an_error(given: tuple[list[str], list[str], list[str]], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        parse_choices(*given)


def test_data_sets_are_named_or_take_their_files_name(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.jsonl"
    odd.touch()
    found = parse_data(["one=x/y.jsonl", "some/pairs.test.jsonl.gz", "pairs.parquet", str(odd)])
    assert found == {
        "one": "x/y.jsonl",
        "pairs.test": "some/pairs.test.jsonl.gz",
        "pairs": "pairs.parquet",
        "a=b": str(odd),
    }


@pytest.mark.parametrize(
    ("texts", "words"), [([], "nothing to evaluate on"), (["=x"], "cannot be read"), (["a=x", "a=y"], "two data sets")]
)
def test_what_names_no_data_is_an_error(texts: list[str], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        parse_data(texts)


def test_a_base_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="--base /no/such: no such folder"):
        base_path("/no/such")
