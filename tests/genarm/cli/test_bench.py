"""`genarm bench`: a table, figures as JSON, a trace; errors in one line."""

import json

import pytest

from genarm.cli.bench import rotate
from genarm.embedded import BASE, REWARDS

SHORT = ["bench", "--context", "8", "--new-tokens", "3", "--rounds", "2", "--device", "cpu"]


def test_plain_and_guided_decoding_are_measured_and_written(cli):
    figures, trace = cli.folder / "bench.json", cli.folder / "trace.json"
    rewards = ["--reward", "risk", "--reward", f"own={REWARDS['art']}", "--batch-size", "2"]
    found = cli(*SHORT, *rewards, "--json", figures, "--trace", trace)
    assert found.status == 0
    assert all(word in found.text for word in ("plain", "ratio", "guided by risk, own; batch 2, context 8"))
    record = json.loads(figures.read_text())
    plain, guided = record["costs"]
    assert (plain["name"], plain["ratio"], guided["name"]) == ("plain", 1.0, "guided")
    assert guided["ratio"] > 0 and guided["first_token_ms"] > 0 and guided["engine"]
    assert guided["tokens_per_second"] == pytest.approx(2e3 / guided["ms_per_token"])
    assert record["settings"]["context"] == 8 and record["versions"]["torch"]
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"prefill", "step"} <= names


def test_a_base_without_reward_models_is_measured_alone(cli):
    found = cli(*SHORT, "--base", BASE)
    assert found.status == 0 and "plain" in found.text and "guided" not in found.text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--new-tokens", "1"], 2, "--new-tokens"),
        (["--reward", "nonsense"], 2, "names no embedded reward model"),
        (["--json", "no/such/folder/bench.json"], 1, "No such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(cli, arguments, status, words):
    cli(*SHORT, *arguments).assert_refused(status, words)


def test_each_round_starts_with_another_contender():
    order: list[str] = []
    found = rotate({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 4)
    assert "".join(order) == "abcbcacababc"
    assert [sorted(turn) for turn in found] == [["a", "b", "c"]] * 4 and found[1] == {"b": 4, "c": 5, "a": 6}
