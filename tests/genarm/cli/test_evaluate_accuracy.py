"""`genarm evaluate accuracy` from a command line to a table, JSON and a picture; errors in one line."""

import json

import pytest

from genarm.embedded import REWARDS

ACCURACY = ["evaluate", "accuracy", "--device", "cpu"]
PAIRS = [
    {"kind": "topic", "prompt": "", "chosen": "I enjoy painting and music", "rejected": "I like to save my money"},
    {"kind": "topic", "prompt": "", "chosen": "I enjoy painting and music", "rejected": "Sports are fun for me"},
    {"kind": "stance", "prompt": "", "chosen": "Art is very important to me", "rejected": "I find art rather boring"},
    {"kind": "stance", "prompt": "I", "chosen": " love museums", "rejected": " have never cared for museums or art"},
    {"kind": "other", "prompt": "I", "chosen": " love poems", "rejected": " <script>alert(1)</script> & so on"},
]


def test_a_table_json_and_a_picture_come_of_pairs_and_scorers(cli):
    figures, plot = cli.folder / "out.json", cli.folder / "out.png"
    named = ["--data", f"own={cli.file('few.jsonl', PAIRS)}", "--data", cli.file("rest.jsonl", PAIRS)]
    scorers = ["--reward", "art", "--dpo", f"policy={REWARDS['art']}"]
    found = cli(*ACCURACY, *named, *scorers, "--json", figures, "--plot", plot, "--by", "kind")
    assert found.status == 0 and max(map(len, found.text.splitlines())) <= 80
    words = ("own: 5 pairs; intervals over 3 clusters", "rest: 5 pairs", "art, per token", "base alone", "longer wins")
    assert all(text in found.text for text in words)
    assert "genarm: art: 10 pairs scored" in found.errors
    assert plot.read_bytes().startswith(b"\x89PNG")

    record = json.loads(figures.read_text(encoding="utf-8"))
    assert record["settings"]["max_length"] == 4096 and record["versions"]["torch"]
    own, other = record["data"]
    assert own["scorers"] == other["scorers"] and own["pairs"] == 5 and own["clusters"] == 3
    rows = {(row["name"], row["reduction"]): row for row in own["scorers"]}
    assert list(rows) == [(name, how) for name in ("art", "policy", "base") for how in ("sum", "mean")]
    assert rows["policy", "sum"]["beta"] == 1.0
    for row in rows.values():
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] <= 1
        assert sum(bucket["pairs"] for bucket in row["length_buckets"]) == 5
        assert [(part["name"], part["pairs"]) for part in row["by"]] == [("other", 1), ("stance", 2), ("topic", 2)]
    assert rows["art", "sum"]["accuracy"]["value"] >= 0.8
    assert [found["less"] for found in own["differences"]] == ["policy", "base"]
    assert own["truncation"]["pairs_dropped"] == 0


def test_the_base_alone_is_scored_on_the_chosen_pairs_and_those_dropped_are_said(cli):
    long = "I like art and music and painting and reading and physics and "
    rows = [{**PAIRS[0], "chosen": long + "sports", "rejected": long + "games"}, *PAIRS]
    data = ["--data", cli.file("long.jsonl", rows), "--where", "kind=topic", "--limit", "2", "--max-length", "8"]
    found = cli(*ACCURACY, *data, "--cluster", "none")
    assert found.status == 0 and "long: 1 pair" in found.text and "1 pair dropped" in found.text
    assert "differences" not in found.text and "base alone" in found.text


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("", 2, "--data"),
        ("--data FILE --reward nonsense", 2, "names no embedded reward model"),
        ("--data FILE --base /no/such/folder", 2, "no such folder"),
        ("--data FILE --by sort", 2, "no column 'sort'"),
        ("--data FILE --max-length 5000", 2, "4096 positions"),
        ("--data FILE --plot figure.nonsense", 2, ".png"),
        ("--data FILE --device tpu", 2, "device"),
        ("--data FILE --json no/such/folder/out.json", 1, "No such file"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_before_anything_is_scored(cli, line, status, words):
    file = str(cli.file("few.jsonl", [{**row, "prompt": ""} for row in PAIRS]))
    cli(*ACCURACY, *line.replace("FILE", file).split()).assert_refused(status, words)
