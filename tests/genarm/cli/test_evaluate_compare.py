"""`genarm evaluate compare` from a configuration to tables, files and pictures, with made-up methods beside GenARM."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from chat_families import BYTE_VOCAB, byte_tokenizer
from judge_server import said, serving
from transformers import LlamaConfig, LlamaForSequenceClassification

from genarm.cli import evaluate_compare
from genarm.comparison import contestants

PROMPTS = [{"id": name, "prompt": f"Tell me about {name}"} for name in ("tea", "rain", "owls")]


def cold(decoder, inputs, *, temperature=0.5, **options):
    return decoder.generate(inputs, temperature=temperature, **options)


def blind(decoder, inputs, **options):
    """A method that has no log-probabilities of what it draws, and refuses to be asked for them."""
    from genarm.errors import InvalidArgumentError

    if "return_logprobs" in options:
        raise InvalidArgumentError("blind does not take 'return_logprobs'")
    return decoder.generate(inputs, **options)


@pytest.fixture
def given(cli, monkeypatch):
    """A configuration: GenARM, two made-up methods, a judge of random weights."""
    config = LlamaConfig(
        vocab_size=BYTE_VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(cli.folder / "judge")
    byte_tokenizer().save_pretrained(cli.folder / "judge")
    real, made_up = contestants.get, {"cold": cold, "blind": blind}
    modules = {name: SimpleNamespace(generate=one) for name, one in made_up.items()}
    monkeypatch.setattr(contestants, "get", lambda name: modules.get(name) or real(name))
    for draw in ("draw_figures", "draw_trade_offs"):  # comparison/test_answers.py draws
        monkeypatch.setattr(evaluate_compare, draw, lambda figures, path: path.write_text(str(len(figures))))
    cli.file("prompts.jsonl", PROMPTS)
    return cli.file("compare.toml", TOML.format(models=cli.models))


TOML = """
base = "{models}/base"
prompts = "prompts.jsonl"
judge = "./judge"
seeds = [0, 5]
max_new_tokens = 6
batch_size = 2
reference = "genarm"

[rewards]
first = "{models}/first"

[methods.genarm]
rewards = ["first"]
weight = 0.5

[methods.colder]
method = "cold"
temperature = 0.25

[methods.blind]
"""


def compare(cli, config, *arguments):
    return cli("evaluate", "compare", "--config", config, "--output", cli.folder / "out", *arguments)


def test_methods_stand_side_by_side_in_tables_files_and_pictures(cli, given, monkeypatch):
    found = compare(cli, given)
    assert found.status == 0 and max(map(len, found.text.splitlines())) <= 80
    record = json.loads((cli.folder / "out/compare.json").read_text())
    rows = {row["label"]: row for row in record["methods"]}
    assert list(rows) == ["base", "genarm", "colder", "blind"]
    assert all(row["answers"] == 6 and row["failed"] == 0 for row in rows.values())
    assert abs(rows["base"]["kl"]["value"]) < 1e-3 < rows["genarm"]["kl"]["value"] and rows["blind"]["kl"] is None
    assert set(rows["genarm"]["forwarded"]) == {"base", "first"} and rows["base"]["cost"] == 1.0
    assert rows["blind"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}  # it is plain decoding
    assert (cli.folder / "out/alpaca_eval/colder/seed-5/model_outputs.json").exists()
    assert {"compare.md", "compare.png", "trade-offs.png", "scores.jsonl"} <= {
        path.name for path in (cli.folder / "out").iterdir()
    }
    before = [row["tokens"] for row in cli_rows(cli)]
    monkeypatch.setattr(contestants._Bound, "__call__", pytest.fail)  # nothing decodes again
    again = compare(cli, given)
    assert again.text == found.text and [row["tokens"] for row in cli_rows(cli)] == before


def cli_rows(cli):
    paths = sorted((cli.folder / "out/answers").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_one_method_of_a_few_prompts_can_be_tried_first(cli, given):
    found = compare(cli, given, "--method", "colder", "--limit", "1")
    assert found.status == 0 and len(cli_rows(cli)) == 4  # and plain decoding, under two seeds


def test_two_judges_are_asked_once_and_the_key_is_written_nowhere(cli, given, monkeypatch):
    monkeypatch.setenv("THE_KEY", "s3cret")
    few = ("--method", "colder", "--limit", "2")
    with serving(lambda body, number: said("A" if body["model"] == "first" else "T")) as (url, asked, keys):
        judged = ("--judge", url, "--judge-model", "first", "--judge-model", "ties", "--judge-key", "THE_KEY")
        found = compare(cli, given, *few, *judged)
        assert found.status == 0 and "Which are preferred to those of base" in found.text
        count = len(asked)
        compare(cli, given, *few, *judged)
    assert count == len(asked) == 2 * 2 * 2 * 2 and set(keys) == {"Bearer s3cret"}
    record = json.loads((cli.folder / "out/compare.json").read_text())
    assert [(row["judge"], row["wins"]["value"], row["consistent"]) for row in record["judged"]] == [
        ("first", 0.5, 0.0), ("ties", 0.5, 1.0),
    ]  # fmt: skip
    assert record["judges_agree"] == {"first and ties": 1.0} and len(record["verdicts"]) == 8
    texts = [path.read_text(errors="replace") for path in (cli.folder / "out").rglob("*") if path.is_file()]
    assert not any("s3cret" in text for text in texts)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [0, 5]", "sedes = [0]", "has 'sedes', which nothing reads"),
        ("seeds = [0, 5]", "seeds = [0, 0]", "each once"),
        ("batch_size = 2", "batch_size = 0", "write 1 or more"),
        ("batch_size = 2", 'batch_size = "2"', "write a whole number"),
        ('judge = "./judge"', "", "has no judge"),
        ('judge = "./judge"', 'judge = "./gone"', "no such folder"),
        ('reference = "genarm"', 'reference = "gen"', "the methods are base, genarm, colder, blind"),
        ('rewards = ["first"]', 'rewards = ["last"]', "[rewards] has first"),
        ("[methods.blind]", "[methods.base]", "'base' is plain decoding"),
        ("[methods.blind]", "[methods.argz]", "did you mean 'args'?"),
        ("[methods.blind]", '[methods.x]\nmethod = "cold"\nmodel = "./judge"', "x uses the judge"),
        ("[methods.blind]", "[methods.blind", "is no TOML"),
    ],
    ids=lambda value: None if len(value) > 25 else value,
)
def test_a_configuration_that_cannot_be_used_is_refused_in_one_line(cli, given, old, new, words):
    text = given.read_text()
    assert old in text
    found = compare(cli, cli.file("changed.toml", text.replace(old, new)))
    assert found.status == 2 and words in found.line, found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--judge-model gpt", "give --judge URL"),
        ("--judge http://127.0.0.1:9/v1", "--judge-model NAME"),
        ("--judge http://127.0.0.1:9/v1 --judge-model m --judge-key NO_SUCH_KEY", "not in the environment"),
        ("--judge ftp://x --judge-model m", "write http(s)"),
        ("--method other", "the configuration has genarm, colder, blind"),
    ],
    ids=["no-url", "no-model", "no-key", "no-http", "no-method"],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(cli, given, line, words):
    compare(cli, given, *line.split()).assert_refused(2, words)
