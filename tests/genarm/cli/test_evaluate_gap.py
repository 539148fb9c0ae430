"""`genarm evaluate gap`: every system as `generate` would decode it, a run that resumes, what cannot be measured."""

from __future__ import annotations

import json
import math

import pytest

import genarm_kernels
from genarm import GuidedDecoder
from genarm.cli import gap_systems
from genarm.evaluation.gap import Evidence, gap

QUICK = ["--max-new-tokens", "5", "--seed", "3", "--temperature", "0.9", "--top-k", "20", "-n", "3"]
OPTIONS = {"max_new_tokens": 5, "temperature": 0.9, "top_k": 20}


@pytest.fixture
def measure(cli):
    """`genarm evaluate gap` with the tiny models."""
    rewards = [f"--reward=first={cli.models / 'first'}:2", f"--reward=second={cli.models / 'second'}:-1"]
    line = ["evaluate", "gap", "--base", cli.models / "base", *rewards, *QUICK]
    return lambda *arguments: cli(*line, *arguments)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_system_is_generate_s_with_its_weights_and_seed_and_the_figures_are_theirs(cli, measure):
    prompts, figures = cli.file("prompts.txt", "ab\nThe cat"), cli.folder / "figures.json"
    line = ["--input", prompts, "--weights", "0.5,1", "--particles", "3", "--batch-size", "8", "--json", figures]
    found = measure(*line, "--output", cli.output, "--plot", cli.folder / "gap.png")
    assert found.status == 0 and (cli.folder / "gap.png").stat().st_size
    rows = rows_of(cli.output)
    assert len(rows) == 2 * 2 * 2 * 3
    adapters = {name: str(cli.models / name) for name in ("first", "second")}
    decoder = GuidedDecoder.from_pretrained(cli.models / "base", adapters, device="cpu")
    seeds = genarm_kernels.row_seeds(3, 6)
    evidence: dict[float, dict[int, list[list[float]]]] = {}
    for place, row in enumerate(rows):
        prompt, sample, count = row["prompt_id"] - 1, row["sample"] - 1, row["particles"]
        own = evidence.setdefault(row["weights"]["first"], {}).setdefault(count, [[0.0] * 3, [0.0] * 3])
        own[prompt][sample] = row["log_evidence"]
        assert row["seconds"] > 0
        if place % 5:
            continue
        call = {"weights": row["weights"], "seed": seeds[3 * prompt + sample :][:1], **OPTIONS}
        out = decoder.generate(row["prompt"], particles=count, **call)
        assert row["text"] == out.texts[0] and row["log_evidence"] == pytest.approx(float(out.log_evidence), abs=1e-4)
        if count == 1:  # Σ log Z_t by what plain decoding says of its tokens
            plain = decoder.generate(row["prompt"], return_logprobs=True, **call)
            weights = [1.0, *(row["weights"][name] for name in plain.model_names[1:])]
            sums = plain.model_logprobs[0].double().sum(0).tolist()
            total = sum(w * each for w, each in zip(weights, sums, strict=True)) / 0.9 - float(plain.logprobs.sum())
            assert row["log_evidence"] == pytest.approx(total, abs=1e-4) and row["text"] == plain.texts[0]
    record = json.loads(figures.read_text())
    assert (record["prompts"], record["samples"]) == (2, 3)
    assert [one["weights"] for one in record["weights"]] == [{"first": 1, "second": -0.5}, {"first": 2, "second": -1}]
    for one in record["weights"]:
        own = evidence[one["weights"]["first"]]
        counts = dict.fromkeys(own, (0.0, 0.0))
        expected = gap(Evidence(gap_systems.Cell("guided", ("x",), (1,)), own, counts, dict.fromkeys(own, 1.0)))
        assert [each["particles"] for each in one["particles"]] == [1, 3]
        assert [each["bound"]["value"] for each in one["particles"]] == pytest.approx(
            [each.bound.value for each in expected.closed], abs=1e-5
        )
        assert one["best_bound"]["value"] == pytest.approx(expected.best.value, abs=1e-5)
        assert one["best_bound"]["particles"] == 9
        assert one["prompts"][1]["sum_log_normalizers"] == pytest.approx(sum(own[1][1]) / 3, abs=1e-5)


def test_a_run_that_was_cut_off_anywhere_resumes_and_a_whole_one_loads_no_model(cli, measure, monkeypatch):
    line = ["ab", "cd", "--particles", "1,3", "--json", cli.folder / "out.json"]
    assert measure(*line, "--output", cli.folder / "whole.jsonl").status == 0
    whole, record = (cli.folder / "whole.jsonl").read_bytes(), json.loads((cli.folder / "out.json").read_text())
    (cli.folder / "whole.jsonl.meta.json").rename(cli.folder / "out.jsonl.meta.json")

    def timeless(content):
        rows = [json.loads(each) for each in content.splitlines()]
        return [{**row, "seconds": 0, "log_evidence": round(row["log_evidence"], 4)} for row in rows]

    lines = whole.splitlines(keepends=True)
    cli.output.write_bytes(b"".join(lines[:9]) + lines[9][:30])  # of one call two rows are there and two are not
    assert measure(*line, "--output", cli.output).status == 0
    assert timeless(cli.output.read_bytes()) == timeless(whole)
    monkeypatch.setattr(gap_systems, "load", lambda *_: pytest.fail("a model was loaded"))
    assert measure(*line, "--output", cli.output).status == 0
    assert json.loads((cli.folder / "out.json").read_text())["weights"][0]["best_bound"] == pytest.approx(
        record["weights"][0]["best_bound"], abs=1e-3
    )
    measure(*line, "--weights", "2", "--output", cli.output).assert_refused(1, "made with other settings (cells")


def test_a_prompt_that_fails_is_left_out_by_name_and_gives_status_1(cli, measure):
    rows = cli.file("rows.jsonl", [{"id": "good", "prompt": "ab"}, {"id": "bad", "prompt": [99999]}])
    figures = cli.folder / "figures.json"
    found = measure("--input", rows, "--particles", "2", "--json", figures)
    assert found.status == 1 and any("'bad first=2 second=-1 N=2'" in line for line in found.errors)
    assert any("1 of 2 prompts are left out" in line for line in found.errors)
    assert [one["id"] for one in json.loads(figures.read_text())["weights"][0]["prompts"]] == ["good"]
    bad = cli.file("bad.jsonl", [{"prompt": [99999]}])
    none = measure("--input", bad, "--particles", "2")
    assert none.status == 1 and "every prompt has a system that failed" in none.errors[-1]


def test_without_prompts_the_demo_s_are_measured_one_alone_and_the_others_together(cli, measure, monkeypatch):
    calls = []
    real = GuidedDecoder.generate

    def counted(self, prompts, *arguments, **options):
        calls.append((options["particles"], len(prompts)))
        return real(self, prompts, *arguments, **options)

    monkeypatch.setattr(GuidedDecoder, "generate", counted)
    found = measure("--particles", "4", "--batch-size", "16", "--max-new-tokens", "2")
    assert found.status == 0 and "first=2 second=-1" in found.text and math.prod(map(len, calls))
    assert calls == [(1, 1), *[(1, 1)] * 3, (1, 6), (4, 1), *[(4, 1)] * 3, (4, 4), (4, 2)]  # each N warms up once


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("ab --weights 1,x", 2, "--weights '1,x' cannot be read: write numbers"),
        ("ab --weights inf", 2, "weights are finite"),
        ("ab --particles 1", 2, "one above 1"),
        ("ab --particles 2.5", 2, "write whole numbers"),
        ("ab --particles 0,4", 2, "write whole numbers"),
        ("ab --temperature 0", 2, "has no distribution"),
        ("ab -n 1", 2, "'-n'"),
        ("ab --plot out.txt", 2, "name a .png"),
        ("ab --input ROWS", 2, "choose one of them"),
        ("--input ROWS", 2, "has weights, which a sweep sets"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line_and_nothing_is_written(cli, measure, line, status, words):
    rows = cli.file("rows.jsonl", [{"prompt": "ab", "weights": {"first": 1}}])
    measure(*line.replace("ROWS", str(rows)).split(), "--output", cli.output).assert_refused(status, words)
    assert cli.left() == ["rows.jsonl"]


def test_a_reward_model_is_needed(cli):
    cli("evaluate", "gap", "ab", "--base", cli.models / "base").assert_refused(2, "give --reward")
