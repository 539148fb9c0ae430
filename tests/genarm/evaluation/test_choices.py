"""What a command line names: scorers and data sets, or an error in one line."""

import pytest

from genarm.embedded import BASE, REWARDS
from genarm.errors import InvalidArgumentError
from genarm.evaluation.choices import Choice, base_path, parse_choices, parse_data


def test_scorers_keep_their_kind_and_order():
    art = str(REWARDS["art"].resolve())
    assert parse_choices(["risk", f"own={art}"], [f"judge={art}"], [f"policy={art}"]) == [
        Choice("risk", "arm", str(REWARDS["risk"].resolve())),
        Choice("own", "arm", art),
        Choice("judge", "trajectory-rm", art),
        Choice("policy", "dpo", art),
    ]
    assert base_path(None) == str(BASE.resolve())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((["art:0.5"], [], []), "takes none"),
        ((["a=/no/such"], [], []), "--reward /no/such: no such folder"),
        (([], ["judge"], []), "write NAME=PATH"),
        (([], [], ["=x"]), "--dpo '=x' cannot be read"),
        (([], ["base=x"], []), "another name"),
        (([], ["a=/no/such"], []), "--trajectory-rm /no/such: no such folder"),
        ((["art"], [], ["art=x"]), "two scorers are named 'art'"),
    ],
)
def test_what_names_no_scorer_is_an_error(given, words):
    with pytest.raises(InvalidArgumentError, match=words):
        parse_choices(*given)


def test_data_sets_are_named_or_take_their_files_name(tmp_path):
    odd = tmp_path / "a=b.jsonl"
    odd.touch()
    found = parse_data(["one=x/y.jsonl", "some/pairs.test.jsonl.gz", "pairs.parquet", str(odd)])
    named = {"pairs.test": "some/pairs.test.jsonl.gz", "pairs": "pairs.parquet"}
    assert found == {"one": "x/y.jsonl", **named, "a=b": str(odd)}


def test_what_names_no_data_and_no_base_is_an_error():
    for texts, words in (([], "nothing to evaluate on"), (["=x"], "cannot be read"), (["a=x", "a=y"], "two data sets")):
        with pytest.raises(InvalidArgumentError, match=words):
            parse_data(texts)
    with pytest.raises(InvalidArgumentError, match="--base /no/such: no such folder"):
        base_path("/no/such")
