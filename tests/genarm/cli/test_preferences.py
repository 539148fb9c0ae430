"""Preferences on a command line and in rows of a file."""

import json

import pytest
from preference_cases import random_state, save_preference_adapter

from genarm import GuidedDecoder, PreferenceAdapter
from genarm.cli.preferences import parse_objectives, parse_preferences
from genarm.errors import InvalidArgumentError


@pytest.fixture
def parm(cli):
    """Its own folder's name; it does not name its objectives."""
    base = GuidedDecoder.from_pretrained(cli.models / "base").base_model
    return save_preference_adapter(cli.folder / "parm", random_state(base, seed=6))


def test_a_row_has_its_own_preference_or_the_runs_or_an_error(cli, parm):
    rows = [{"prompt": "so it goes"}, {"prompt": "so it goes", "preferences": {"parm": {"helpful": 1, "harmless": 0}}}]
    wrong = [{"prompt": "x", "preferences": {"parm": {"kind": 1}}}, {"prompt": "x", "preferences": "helpful"}]
    base, named = ["--base", cli.models / "base", f"--reward=parm={parm}:2"], "--objectives=parm=harmless,helpful"
    source = cli.file("in.jsonl", [*rows, *wrong])
    quick = ["--input", source, "--max-new-tokens", 6, "--temperature", 0, "--batch-size", 4]
    given = cli("generate", *base, named, "--preference=parm=helpful:0.2,harmless:0.8", *quick)
    made = [json.loads(line) for line in given.text.splitlines()]
    adapter = PreferenceAdapter.from_pretrained(parm, ["harmless", "helpful"])
    decoder = GuidedDecoder.from_pretrained(cli.models / "base", {"parm": adapter})
    for row, shares in zip(made, [(0.8, 0.2), (0.0, 1.0)], strict=False):
        preferences = {"parm": dict(zip(("harmless", "helpful"), shares, strict=True))}
        options = {"weights": {"parm": 2}, "max_new_tokens": 6, "temperature": 0}
        assert decoder.generate("so it goes", preferences=preferences, **options).texts == [row["text"]]
    assert made[0]["text"] != made[1]["text"] and made[1]["preferences"] == rows[1]["preferences"]
    assert "names 'kind'" in made[2]["error"] and "preferences is 'helpful'" in made[3]["error"]
    missing = cli("generate", *base, named, *quick)
    first, second = (json.loads(line) for line in missing.text.splitlines()[:2])
    assert "(--preference parm=harmless:0.5,helpful:0.5)" in first["error"] and "text" in second
    assert "does not name its 2 objectives" in cli("generate", *base, *quick).line
    described = cli("info", *base, named, "--json")
    assert json.loads(described.text)["models"][1]["preference over"] == "harmless, helpful"


def test_what_cannot_be_read_is_refused():
    assert parse_preferences(["a=x:0.5,y:.5", "b=u:v:1"]) == {"a": {"x": 0.5, "y": 0.5}, "b": {"u:v": 1.0}}
    assert parse_objectives(["a=x, y"], ["a"]) == {"a": ["x", "y"]}
    for texts in (["a"], ["a="], ["a=x:1,"], ["a=x"], ["a=x:one"], ["a=x:1,x:0"], ["a=x:1", "a=x:1"]):
        with pytest.raises(InvalidArgumentError, match="--preference"):
            parse_preferences(texts)
    for texts in (["b=x"], ["a"], ["a=x,,y"], ["a=x", "a=x"]):
        with pytest.raises(InvalidArgumentError, match="--objectives"):
            parse_objectives(texts, ["a"])
