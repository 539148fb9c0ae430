"""Decoding methods from the command line: listed, chosen by name, with settings as text."""

import pytest
from chat_families import BYTE_VOCAB
from method_cases import make_scorer

from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError
from genarm.runs.method import parse_settings

ROWS = [{"id": f"row {index}", "prompt": "so it goes " * (1 + index % 3)} for index in range(5)]


@pytest.fixture(scope="session")
def judge(models):
    path = models / "judge"
    make_scorer("llama", seed=4, vocab=BYTE_VOCAB).save_pretrained(path)
    return path


def test_a_method_writes_what_it_writes_in_python(cli, judge):
    source = cli.file("in.jsonl", ROWS)
    method = ["--method", "args", "--set", f"trajectory_rm={judge}", "--set", "candidates=3"]
    found = cli("generate", "--base", cli.models / "base", "--input", source, "--output", cli.output,
                "--max-new-tokens", 5, "--seed", 3, "--batch-size", 2, *method)  # fmt: skip
    assert found.status == 0, found
    rows = cli.rows()
    decoder = GuidedDecoder.from_pretrained(cli.models / "base")
    for row in ROWS:
        out = methods["args"].generate(decoder, row["prompt"], trajectory_rm=str(judge), candidates=3, max_new_tokens=5)
        assert rows[row["id"]]["text"] == out.texts[0]
        assert rows[row["id"]]["score"] == pytest.approx(float(out.scores[0]), abs=1e-3)
        assert "logprob_sums" not in rows[row["id"]]
    other = cli("generate", "--base", cli.models / "base", "--input", source, "--output", cli.output,
                "--max-new-tokens", 5, "--seed", 3, "--method", "args", "--set", f"trajectory_rm={judge}")  # fmt: skip
    assert other.status == 1 and "method's settings" in other.line


def test_a_method_writes_to_a_reader(cli, judge):
    found = cli("generate", "so it goes", "--base", cli.models / "base", "--max-new-tokens", 5, "--method", "args",
                "--set", f"trajectory_rm={judge}")  # fmt: skip
    assert found.status == 0 and found.text.startswith("so it goes")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "agrs"], "did you mean 'args'"),
        (["--method", "args"], "args needs trajectory_rm: give it with --set trajectory_rm="),
        (["--method", "args", "--set", "k=3"], "args has no setting 'k': it has trajectory_rm, candidates"),
        (["--set", "candidates=3"], "--set is about a method"),
        (["--method", "args", "--set", "candidates"], "write NAME=VALUE"),
    ],
)
def test_what_is_wrong_with_a_method_is_said_before_models_are_loaded(cli, monkeypatch, arguments, words):
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", pytest.fail)
    cli.generate("x", *arguments).assert_refused(2, words)


def test_what_a_method_would_not_heed_is_refused(cli, judge):
    method = ["--method", "args", "--set", f"trajectory_rm={judge}"]
    cli.generate("x", *method).assert_refused(2, "args does not take 'weights'")
    found = cli("generate", "x", "--base", cli.models / "base", "--top-k", 5, *method)
    found.assert_refused(2, "args does not take 'top_k'")


def test_an_option_that_is_written_out_is_told_to_a_method_that_has_another_default(cli, judge):
    decoder = GuidedDecoder.from_pretrained(cli.models / "base")
    settings = {"trajectory_rm": str(judge), "entropy": 1.0}
    prompt = "so it goes "
    expected = [
        methods["cards"].generate(decoder, prompt, max_new_tokens=30, seed=3, **settings, **own).texts[0]
        for own in ({}, {"temperature": 1.0})
    ]
    assert expected[0] != expected[1]
    rows = [{"prompt": prompt}, {"prompt": prompt, "temperature": 1.0}]
    source = cli.file("own.jsonl", [{"id": f"{index}", "seed": 3, **row} for index, row in enumerate(rows)])
    run = ["--base", cli.models / "base", "--max-new-tokens", 30, "--method", "cards", "--seed", 3,
           "--set", f"trajectory_rm={judge}", "--set", "entropy=1"]  # fmt: skip
    assert cli("generate", "--input", source, "--output", cli.output, *run).status == 0
    assert [cli.rows()[key]["text"] for key in "01"] == expected
    whole = cli("generate", "--input", source, "--output", cli.output, *run, "--temperature", 1)
    assert whole.status == 1 and "method's options" in whole.line


def test_settings_are_json_or_text():
    entries = ["a=3", "b=0.5", "c=true", 'd={"x": 1}', "e=greedy", "f=a=b"]
    assert parse_settings(entries) == {"a": 3, "b": 0.5, "c": True, "d": {"x": 1}, "e": "greedy", "f": "a=b"}
    with pytest.raises(InvalidArgumentError, match="'a' twice"):
        parse_settings(["a=1", "a=2"])


def test_methods_are_listed_with_their_settings(cli):
    listed = cli("methods")
    assert listed.status == 0 and all(name in listed.text for name in methods.names())
    one = cli("methods", "args")
    assert "logit_base" in one.text and "candidates=10" in one.text and "choice=greedy" in one.text
