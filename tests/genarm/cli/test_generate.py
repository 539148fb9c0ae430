"""`genarm generate` from the outside: files in, files out, whatever happens in between."""

import gzip
import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from genarm import GuidedDecoder
from genarm.cli import outputs
from genarm.runs.output import OutputFile

ROWS = [{"id": f"row {index}", "prompt": "so it goes " * (1 + index % 4)} for index in range(10)]


def test_a_file_of_prompts_becomes_a_file_of_rows_that_is_then_left_alone(cli, monkeypatch):
    rows = [*ROWS, {"id": "own", "prompt": "x", "weights": {"second": 3}, "source": "elsewhere"}]
    source = cli.file("in.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    found = cli.generate("--input", source, "--output", cli.output)
    assert (found.status, found.text) == (0, "") and found.line.startswith(f"genarm: {cli.output}: 11 rows; 6")
    made = cli.rows()
    assert made.keys() == {row["id"] for row in rows}
    assert made["own"]["weights"] == {"first": 1.0, "second": 3.0}
    assert all(1 <= row["token_count"] <= 6 and row["finish_reason"] in ("eos", "length") for row in made.values())
    assert set(made["row 1"]["logprob_sums"]) == {"base", "first", "second"}
    settings = json.loads((cli.folder / "out.jsonl.meta.json").read_text())["settings"]
    assert settings["base"] == str(cli.models / "base") and settings["weights"] == {"first": 1.0, "second": -1.0}
    assert settings["dtype"] == "float32" and "batch_size" not in settings
    before = cli.output.read_bytes()
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", pytest.fail)
    again = cli.generate("--input", source, "--output", cli.output, "--batch-size", 3)
    assert (again.status, again.line) == (0, f"genarm: {cli.output} is complete already: 11 rows")
    assert cli.output.read_bytes() == before


def test_a_torn_output_is_completed_with_the_rows_it_would_have_had(cli):
    source = cli.file("in.jsonl", ROWS)
    cli.generate("--input", source, "--output", cli.output)
    whole, expected = cli.output.read_bytes(), cli.rows()
    first = whole.index(b"\n") + 1
    for cut in (0, 1, first - 1, first, first + 1, len(whole) // 2, len(whole) - 1):
        cli.output.write_bytes(whole[:cut])
        assert cli.generate("--input", source, "--output", cli.output).status == 0
        assert cli.rows() == expected


def test_a_killed_run_started_again_ends_with_exactly_one_row_per_prompt(cli):
    source = cli.file("in.jsonl", [{"prompt": "word " * (1 + index % 7)} for index in range(40)])
    arguments = ["--input", str(source), "--max-new-tokens", "8", "--batch-size", "2"]
    child = os.fork()  # and not a fresh interpreter, which would import torch for longer than it decodes
    if not child:
        try:
            cli.generate(*arguments, "--output", cli.output)
        finally:
            os._exit(3)
    deadline = time.monotonic() + 120
    while not (cli.output.exists() and cli.output.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    before = cli.output.read_bytes()
    assert 3 <= before.count(b"\n") < 40
    assert cli.generate(*arguments, "--output", cli.output).status == 0
    assert cli.output.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    other = cli.folder / "uninterrupted.jsonl"
    assert cli.generate(*arguments, "--output", other).status == 0
    assert cli.rows() == cli.rows(other) and list(cli.rows()) == list(range(1, 41))


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_asked_to_stop_keeps_what_is_finished_and_says_how_to_resume(cli, monkeypatch, own_process, stop, status):
    source = cli.file("in.jsonl", ROWS)
    real, calls = GuidedDecoder.generate, []

    def generate(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), stop)
        return real(*arguments, **options)

    monkeypatch.setattr(GuidedDecoder, "generate", generate)
    found = own_process("--input", source, "--output", cli.output)
    assert found.status == status and list(cli.rows()) == [row["id"] for row in ROWS[:4]]
    assert found.line == f"genarm: interrupted: 4 of 10 rows are in {cli.output}; the same command resumes there"
    assert cli.generate("--input", source, "--output", cli.output).status == 0
    assert list(cli.rows()) == [row["id"] for row in ROWS]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "genarm: interrupted before the first row"),
        (torch.OutOfMemoryError("9\nGiB"), 1, "genarm: error: the models do not fit into memory (9 GiB): choose a"),
    ],
)
def test_a_run_that_ends_before_the_first_row_leaves_nothing(cli, monkeypatch, error, status, line):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(GuidedDecoder, "from_pretrained", load)
    found = cli.generate("--input", cli.file("in.txt", "a\n"), "--output", cli.output)
    assert found.status == cli.generate("--prompt", "a").status == status and found.line.startswith(line)
    assert cli.left() == ["in.txt"]


def test_failed_rows_are_kept_and_counted_on_every_run(cli):
    rows = [{"prompt": "fine"}, {"id": "long", "prompt": "x" * 600}, "{broken"]
    rows += [{"id": "odd", "prompt": "x", "weights": {"third": 1}}, {"id": "long", "prompt": ""}]
    source = cli.file("in.jsonl", "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    found = cli.generate("--input", source, "--output", cli.output, "--max-length", 512)
    expected = (
        f"error: {source} line 3 is not JSON",
        f"error: {source} line 5 has the id 'long' of line 2",
        "row 'long' failed: the base prompt has 601 tokens",
        "row 'odd' failed: weights names 'third', which is not loaded",
        f"{cli.output}: 3 rows, 2 of them failed; 6 tokens in",
    )
    assert found.status == 1
    for line, words in zip(found.errors, expected, strict=True):
        assert line.startswith(f"genarm: {words}")
    reasons = {key: row["finish_reason"] for key, row in cli.rows().items()}
    assert reasons == {1: "length", "long": "error", "odd": "error"}
    before = cli.output.read_bytes()
    again = cli.generate("--input", source, "--output", cli.output, "--max-length", 512)
    assert again.status == 1 and cli.output.read_bytes() == before
    done = f"genarm: {cli.output} is complete already: 3 rows, 2 of them failed"
    assert again.errors == [*found.errors[:2], done]


def test_failed_rows_are_decoded_again_on_request_and_stand_in_their_place(cli):
    source = cli.file("in.jsonl", [{"prompt": "x" * 60}, {"prompt": "b", "topic": "t"}, {"prompt": "x" * 600}])
    arguments = ("--input", source, "--output", cli.output, "--max-length", 300)
    assert cli.generate(*arguments).status == 1
    assert [row["finish_reason"] for row in cli.rows().values()] == ["length", "length", "error"]
    lines = cli.output.read_text().splitlines(keepends=True)
    failed = {"id": 1, "prompt": "x", "error": "the lights went out", "finish_reason": "error"}
    cli.output.write_text(json.dumps(failed) + "\n" + "".join(lines[1:]))
    assert cli.generate(*arguments).status == 1 and cli.rows()[1] == failed
    found = cli.generate(*arguments, "--retry-failed")
    assert found.status == 1 and cli.output.read_text() == "".join(lines)
    assert "3 rows, 1 of them failed" in found.errors[-1] and cli.rows()[2]["topic"] == "t"


def test_rows_of_every_form_with_settings_of_their_own_come_out_in_order(cli, monkeypatch):
    turn = {"role": "user", "content": "hi"}
    rows = [
        {"prompt": "a longer prompt", "max_new_tokens": 2},
        {"messages": [turn], "id": "chat"},
        {"prompt": [70, 71, 72], "temperature": 0},
    ]
    text = json.dumps(rows, indent=1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert cli.generate("--input", "-", "--output", cli.output, "-n", 2, "--system", "be kind").status == 0
    found = [json.loads(line) for line in cli.output.read_text().splitlines()]
    assert [(row["id"], row["sample"]) for row in found] == [(i, n) for i in (1, "chat", 3) for n in (1, 2)]
    assert [row["token_count"] for row in found[:2]] == [2, 2] and found[2]["messages"] == [turn]
    assert found[4]["prompt"] == [70, 71, 72] and found[4]["text"] == found[5]["text"] and found[4]["temperature"] == 0


def test_an_output_of_another_run_is_refused_by_what_differs_and_replaced_on_demand(cli, monkeypatch):
    source = cli.file("in.txt", "a\n")
    arguments = ("--input", source, "--output", cli.output)
    assert cli.generate(*arguments).status == 0
    before = cli.output.read_bytes()
    for changes, words in (
        (["--temperature", "0.5"], "temperature: 1.0 then, 0.5 now"),
        (["--chat"], "chat: False then, True now"),
        (["--dtype", "bfloat16"], "dtype: float32 then, bfloat16 now"),
        (["--reward", f"third={cli.models / 'first'}"], "reward third: None then, "),
    ):
        found = cli.generate(*arguments, *changes)
        assert found.status == 1 and words in found.line and "--overwrite" in found.line
    source.write_text("b\n")
    assert "content of the input has changed" in cli.generate(*arguments).line
    assert cli.output.read_bytes() == before
    assert cli.generate(*arguments, "--overwrite").status == 0 and cli.rows()[1]["prompt"] == "b"
    monkeypatch.setattr(outputs, "fingerprint", lambda path: f"sha256:{path}, trained anew")
    assert "content of base has changed" in cli.generate(*arguments).line


def test_two_runs_do_not_write_to_one_output(cli, monkeypatch):
    cli.generate("--prompt", "a", "--output", cli.output)
    other = OutputFile(cli.output, {}, overwrite=True)
    other.inspect([])
    found = cli.generate("--prompt", "a", "--output", cli.output)
    other.close()
    assert found.status == 1 and "another genarm is writing to it" in found.line
    for file in cli.folder.iterdir():
        file.unlink()
    real = outputs.load_task  # the output appears while the models load
    monkeypatch.setattr(outputs, "load_task", lambda *given: (cli.output.write_text("mine"), real(*given))[1])
    found = cli.generate("--prompt", "a", "--output", cli.output)
    assert found.status == 1 and "made by another process meanwhile" in found.line
    assert cli.output.read_text() == "mine" and cli.left() == ["out.jsonl"]


def test_rows_of_an_input_without_an_output_go_to_the_standard_output(cli):
    found = cli.generate("--input", cli.file("in.txt", "one\ntwo\n"))
    assert [json.loads(line)["prompt"] for line in found.text.splitlines()] == ["one", "two"]
    assert found.status == 0 and len(found.errors) == 1


def test_the_base_alone_needs_no_reward_model(cli):
    arguments = ["--base", cli.models / "base", "--prompt", "one", "--prompt", "two", "--max-new-tokens", 3]
    assert cli("generate", *arguments, "--output", cli.output).status == 0
    assert {key: row["prompt"] for key, row in cli.rows().items()} == {1: "one", 2: "two"}
    assert cli.rows()[1]["weights"] == {} and set(cli.rows()[1]["logprob_sums"]) == {"base"}


def test_the_base_of_an_adapter_is_chosen_and_said(cli):
    """An adapter that names another base says so on the standard error; a choice is followed without a word."""
    folder = Path(shutil.copytree(cli.models / "first", cli.folder / "elsewhere"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/another"}))
    command = ["generate", "p", "--base", cli.models / "base", "--reward", f"first={folder}", "--max-new-tokens", "4"]
    found = cli(*command)
    assert found.status == 0 and "genarm: warning: reward model 'first' was trained on org/another" in found.line
    chosen = cli(*command, "--reward-base", "first=base")
    assert (chosen.status, chosen.errors, chosen.text) == (0, [], found.text)
    own = cli(*command, "--reward-base", f"first={cli.models / 'base'}")
    assert (own.status, own.text) == (0, found.text)
    cli(*command, "--reward-base", "x=own").assert_refused(2, "--reward-base names 'x' and there is no such")
