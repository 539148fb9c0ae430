"""Whole answers from the command line: one prompt, files that resume, conversations, and what is refused."""

import io
import json
import sys

import pytest
from chat_families import BYTE_VOCAB
from method_cases import make_scorer

from genarm import GuidedDecoder
from genarm.comparison.answers import Contestant, Question, _row

ROWS = [{"id": f"row {index}", "prompt": "so it goes " * (1 + index % 3)} for index in range(3)]
FEW = ["--particles", "3"]


@pytest.fixture(scope="session")
def judge(models):
    path = models / "terminal"
    make_scorer("llama", seed=4, vocab=BYTE_VOCAB).save_pretrained(path)
    return path


def make_decoder(cli):
    rewards = {name: str(cli.models / name) for name in ("first", "second")}
    return GuidedDecoder.from_pretrained(cli.models / "base", rewards)


def test_every_option_reaches_the_decoder_and_rows_have_its_log_evidence(cli, judge):
    options = ["--resample-below", "0.9", "--resample-every", "2", "--length-bonus", "0.25", "--terminal", judge]
    source = cli.file("in.jsonl", ROWS)
    found = cli.generate("--input", source, "--output", cli.output, *FEW, *options, "--beta", 2)
    assert found.status == 0, found
    keywords = {"particles": 3, "resample_below": 0.9, "resample_every": 2, "length_bonus": 0.25}
    expected = make_decoder(cli).generate(
        [row["prompt"] for row in ROWS], weights={"first": 1.0, "second": -1.0}, beta=2.0, max_new_tokens=6, seed=3,
        terminal=str(judge), **keywords,
    )  # fmt: skip
    made = [cli.rows()[row["id"]] for row in ROWS]
    assert [row["text"] for row in made] == expected.texts
    assert [row["log_evidence"] for row in made] == pytest.approx(expected.log_evidence.tolist(), abs=1e-3)
    settings = json.loads((cli.folder / "out.jsonl.meta.json").read_text())["settings"]
    assert settings["particles"] == 3 and settings["content of terminal"].startswith("sha256:")


def test_a_row_depends_on_neither_batch_nor_where_the_run_was_stopped(cli):
    source = cli.file("in.jsonl", ROWS)
    run = ["--input", source, "--output", cli.output, *FEW, "-n", 2]
    assert cli.generate(*run).status == 0
    whole = cli.output.read_bytes()
    lines = whole.splitlines(keepends=True)
    texts = {tuple(json.loads(line)[name] for name in ("id", "sample")): json.loads(line)["text"] for line in lines}
    assert len(texts) == 6 and len({*texts.values()}) > 3
    cli.output.write_bytes(whole[: len(whole) // 2])
    assert cli.generate(*run).status == 0 and cli.output.read_bytes() == whole
    assert cli.generate(*run, "--overwrite", "--batch-size", 7).status == 0
    again = map(json.loads, cli.output.read_text().splitlines())
    assert {(row["id"], row["sample"]): row["text"] for row in again} == texts
    other = cli.generate("--input", source, "--output", cli.output, "--particles", 4, "-n", 2)
    assert other.status == 1 and "particles: 3 then, 4 now" in other.line


def test_a_reader_gets_the_text_once_it_is_whole_and_figures_on_request(cli):
    found = cli.generate("so it goes", *FEW, "--stats")
    (text,) = (
        make_decoder(cli)
        .generate("so it goes", weights={"first": 1.0, "second": -1.0}, particles=3, max_new_tokens=6, seed=3)
        .texts
    )
    assert found.status == 0 and found.text.startswith("so it goes") and text.split("\n")[0] in found.text
    assert "log evidence" in found.errors[0]


def test_a_conversation_has_its_answers_from_particles(cli, monkeypatch):
    lines = ["--base", cli.models / "base", f"--reward=first={cli.models / 'first'}:1", "--max-new-tokens", 4, *FEW]
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nand you?\n"))
    found = cli("chat", *lines)
    assert found.status == 0 and found.text and not found.errors
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    assert cli("chat", *lines, "--temperature", 0).status == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--length-bonus", "0.5"], "--length-bonus is about particles: give --particles N too"),
        (["--resample-below", "0"], "--resample-below is about particles"),
        (["--particles", "0"], "'--particles'"),
        (["--particles", "1.5"], "'--particles'"),
        (["--resample-below", "-1", *FEW], "'--resample-below'"),
        (["--terminal", "/nowhere", *FEW], "/nowhere"),
        (["--method", "particles", "--set", "particles=2", *FEW], "particles is given as an option and by --set"),
    ],
)
def test_what_is_wrong_with_them_is_said_before_models_are_loaded(cli, monkeypatch, arguments, words):
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", pytest.fail)
    found = cli.generate("x", *arguments)
    assert found.status in (1, 2) and words in found.line


def test_what_would_not_be_heeded_is_refused(cli, judge):
    cli.generate("x", *FEW, "--temperature", 0).assert_refused(2, "temperature")
    args = ["--base", cli.models / "base", "--method", "args", "--set", f"trajectory_rm={judge}"]
    cli("generate", "x", *args, *FEW).assert_refused(2, "args does not take 'particles'")
    source = cli.file("in.jsonl", [{"prompt": "x", "particles": 4}])
    found = cli.generate("--input", source, "--output", cli.output)
    assert found.status == 1 and "use the option --particles" in cli.rows()[1]["error"]


def test_an_answer_that_was_taken_by_weight_has_no_density_in_a_comparison(cli):
    decoder, question = make_decoder(cli), Question(0, "q", "x", [5])
    for particles, has_density in ((None, True), (2, False)):
        options = {} if particles is None else {"particles": particles}
        out = decoder.generate([[5]], max_new_tokens=3, return_logprobs=True, **options)
        row = _row(Contestant("x", lambda: None, {}), question, 0, out, 0, 0.1, {})
        assert (row["log_prob"] is not None) == has_density
