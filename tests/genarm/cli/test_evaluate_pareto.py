"""`genarm evaluate pareto`: each cell as `genarm generate` would write it, a prompt read once, a run that resumes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from chat_families import BYTE_VOCAB
from families import make_model
from preference_cases import random_state, save_preference_adapter
from transformers import LlamaForSequenceClassification

import genarm_kernels
from genarm import GuidedDecoder
from genarm.cli import evaluate_pareto
from genarm.evaluation.pareto import front
from genarm.evaluation.soups import soup
from genarm.models.adapters import read_adapter
from genarm.models.fused.session import FusedSession
from genarm.models.preference_adapters import PreferenceAdapter

PROMPTS = ["ab", "The cat"]
CAT = len("The cat") + 1  # tokens, BOS among them
QUICK = ["--max-new-tokens", "5", "--seed", "3", "--temperature", "0.9"]


@pytest.fixture
def sweep(cli, monkeypatch):
    """`genarm evaluate pareto` with the tiny models, and few resamples."""
    monkeypatch.setattr(evaluate_pareto, "front", partial(front, draws=20))
    rewards = [f"--reward={name}={cli.models / name}" for name in ("first", "second")]
    line = ["evaluate", "pareto", "--base", cli.models / "base", *rewards, *QUICK]
    return lambda *arguments: cli(*line, *arguments)


def rows_of(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def passes(monkeypatch):
    """What sessions forward: {"prompt tokens": of all streams together, "steps": passes of one token per row}."""
    counts = {"prompt tokens": 0, "steps": 0}
    read, append = FusedSession._read, FusedSession._append

    def reading(self, chunk, *others):
        counts["prompt tokens"] += len(chunk.ids)
        return read(self, chunk, *others)

    def appending(self, tokens):
        counts["steps"] += 1
        return append(self, tokens)

    monkeypatch.setattr(FusedSession, "_read", reading)
    monkeypatch.setattr(FusedSession, "_append", appending)
    return counts


def test_a_grid_of_25_reads_the_prompt_once_and_takes_the_passes_of_one_decode(cli, sweep, passes):
    found = sweep("The cat", "--output", cli.output)
    assert found.status == 0 and len(cli.rows()) == 25
    once = dict(passes)
    longest = max(row["token_count"] for row in cli.rows().values())
    assert once == {"prompt tokens": 3 * CAT, "steps": longest - 1}  # the base and two reward models
    passes.update(dict.fromkeys(passes, 0))
    rewards = [f"--reward={name}={cli.models / name}" for name in ("first", "second")]
    apart = cli("generate", "The cat", "--base", cli.models / "base", *rewards, *QUICK, "--json")
    assert apart.status == 0 and passes["prompt tokens"] == once["prompt tokens"]
    assert once["steps"] <= 25 * passes["steps"] / 2  # what 25 such decodes take


def test_a_batch_that_is_too_small_for_a_prompt_is_said_to_read_it_again(cli, sweep, passes):
    found = sweep("The cat", "--grid", "0,1", "--batch-size", "3", "--output", cli.output)
    assert found.status == 0 and passes["prompt tokens"] == 2 * 3 * CAT
    assert any("more than --batch-size 3" in line for line in found.errors)


def test_every_cell_s_rows_are_a_decode_of_their_own_with_its_weights_and_seeds(cli, sweep):
    prompts = cli.file("prompts.txt", "\n".join(PROMPTS))
    assert sweep("--input", prompts, "--grid", "0,0.5,1", "-n", "2", "--output", cli.output).status == 0
    rows = rows_of(cli.output)
    assert len(rows) == 9 * 2 * 2
    adapters = {name: str(cli.models / name) for name in ("first", "second")}
    decoder = GuidedDecoder.from_pretrained(cli.models / "base", adapters, device="cpu", max_batch_size=1)
    seeds = genarm_kernels.row_seeds(3, 4)
    for row in rows[::5]:
        place = 2 * (row["prompt_id"] - 1) + row["sample"] - 1
        out = decoder.generate(
            row["prompt"], weights=row["cell"], seed=seeds[place : place + 1], max_new_tokens=5, temperature=0.9,
            return_logprobs=True,
        )  # fmt: skip
        assert row["tokens"] == out.tokens[0].tolist() and row["text"] == out.texts[0]
        assert row["logprob_sum"] == pytest.approx(float(out.logprobs.sum()), abs=1e-4)
    generated = cli.folder / "generated.jsonl"
    weighed = [
        f"--reward={name}={path}:{weight}" for (name, path), weight in zip(adapters.items(), (0.5, 1), strict=True)
    ]
    line = ["--base", cli.models / "base", *weighed, *QUICK, "--input", prompts, "-n", "2", "--output", generated]
    assert cli("generate", *line).status == 0
    cell = [row["text"] for row in rows if row["cell"] == {"first": 0.5, "second": 1.0}]
    assert cell == [row["text"] for row in rows_of(generated)]


def test_a_soup_s_rows_are_decodes_with_the_averaged_adapter_and_policies_are_decoded_alone(cli, sweep):
    policies = [f"--dpo={name}={cli.models / folder}" for name, folder in (("p", "first"), ("q", "second"))]
    found = sweep(
        "ab", "--grid", "0,1,2", "--soup", *policies, "--soup-steps", "2", "--beta", "2", "--output", cli.output
    )
    assert found.status == 0
    rows = {(row["family"], *row["cell"].values()): row for row in rows_of(cli.output)}
    assert len(rows) == 9 + 4 + 3
    plain = GuidedDecoder.from_pretrained(cli.models / "base", device="cpu")
    adapters = [read_adapter(cli.models / name) for name in ("first", "second")]
    seed = genarm_kernels.row_seeds(3, 1)
    for key, shares, weights in (
        (("soups", 1, 2), (1 / 3, 2 / 3), {"soup": 1.5}),
        (("policies", 0.5, 0.5), (0.5, 0.5), {"soup": 1.0}),
    ):
        decoder = GuidedDecoder(plain.base_model, {"soup": soup(adapters, shares, plain.base_model)}, plain.tokenizer)
        out = decoder.generate(
            "ab", weights=weights, base_weight=float(key[0] == "soups"), seed=seed, max_new_tokens=5, temperature=0.9
        )
        assert rows[key]["tokens"] == out.tokens[0].tolist()
    alone = GuidedDecoder(plain.base_model, {"p": str(cli.models / "first")}, plain.tokenizer)
    out = alone.generate("ab", base_weight=0.0, seed=seed, max_new_tokens=5, temperature=0.9)
    assert rows["policies", 1, 0]["tokens"] == out.tokens[0].tolist()


def test_a_run_that_was_cut_off_anywhere_resumes_without_losing_or_doubling_a_row(cli, sweep):
    line = ["ab", "cd", "--grid", "0,1", "--soup", "--json", cli.folder / "out.json"]
    assert sweep(*line, "--output", cli.folder / "whole.jsonl").status == 0
    whole = (cli.folder / "whole.jsonl").read_bytes()
    figures = json.loads((cli.folder / "out.json").read_text())["cells"]
    (cli.folder / "whole.jsonl.meta.json").rename(cli.folder / "out.jsonl.meta.json")
    for cut in (len(whole) // 5, len(whole) - 30):  # within the guided cells, and within the last soup's
        cli.output.write_bytes(whole[:cut])
        assert sweep(*line, "--output", cli.output).status == 0
        assert cli.output.read_bytes() == whole
        assert json.loads((cli.folder / "out.json").read_text())["cells"] == figures


def test_a_run_that_is_complete_loads_no_model_and_other_settings_are_refused(cli, sweep, monkeypatch):
    line = ["ab", "--grid", "0,1", "--output", cli.output]
    assert sweep(*line).status == 0
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", None)
    found = sweep(*line, "--score", "sum", "--reference", "-200,-200")
    assert found.status == 0 and "Reference point: first −200.00, second −200.00" in found.text
    sweep("ab", "--grid", "0,2", "--output", cli.output).assert_refused(1, "made with other settings (cells")


def test_a_trajectory_rm_scores_the_objective_of_its_name(cli, sweep):
    causal = make_model("llama", seed=9, vocab=BYTE_VOCAB)
    torch.manual_seed(9)
    causal.config.num_labels = 1
    judge = LlamaForSequenceClassification(causal.config).eval()
    judge.save_pretrained(cli.folder / "judge")
    figures = cli.folder / "out.json"
    line = ["ab", "--steps", "2", "-n", "3", "--trajectory-rm", f"second={cli.folder / 'judge'}", "--json", figures]
    assert sweep(*line, "--output", cli.output).status == 0
    record = json.loads(figures.read_text())
    rows = rows_of(cli.output)
    assert len(rows) == 12 and record["objectives"]["second"] == "score of a trajectory RM"
    for cell in record["cells"]:
        own = [row for row in rows if row["cell"] == cell["weights"]]
        scores, rewards = [], []
        for row in own:
            ids = torch.tensor([[*map(int, _prompt_ids(cli, row["prompt"])), *row["tokens"]]])
            scores.append(judge(input_ids=ids).logits.item())
            rewards.append(row["logprob_sums"]["first"] / row["token_count"])
        assert cell["scores"]["second"]["value"] == pytest.approx(sum(scores) / 3, abs=1e-4)
        assert cell["scores"]["first"]["value"] == pytest.approx(sum(rewards) / 3, abs=1e-5)


def _prompt_ids(cli, text):
    return GuidedDecoder.from_pretrained(cli.models / "base", device="cpu").tokenizer(text)["input_ids"]


def test_a_reward_model_conditioned_on_a_preference_is_swept_at_it_and_is_in_no_soup(cli, sweep):
    base = make_model("llama", vocab=BYTE_VOCAB)
    parm = save_preference_adapter(cli.folder / "parm", random_state(base, seed=6))
    line = [
        "ab",
        f"--reward=parm={parm}",
        "--objectives=parm=harmless,helpful",
        "--preference=parm=helpful:0.2,harmless:0.8",
        "--grid",
        "0,1",
    ]
    sweep(*line, "--soup").assert_refused(1, "conditioned on preferences (PARM) is another model for each of them")
    assert sweep(*line, f"--dpo=p={cli.models / 'first'}", "--output", cli.output).status == 0
    conditioned = PreferenceAdapter.from_pretrained(parm, ["harmless", "helpful"])
    adapters = {"parm": conditioned, "p": str(cli.models / "first")}
    decoder = GuidedDecoder.from_pretrained(cli.models / "base", adapters, device="cpu")
    options = {"seed": genarm_kernels.row_seeds(3, 1), "max_new_tokens": 5, "temperature": 0.9}
    options["preferences"] = {"parm": {"helpful": 0.2, "harmless": 0.8}}
    guided = decoder.generate("ab", weights={"parm": 1.0}, **options).texts
    policy = decoder.generate("ab", weights={"p": 1.0}, base_weight=0.0, **options).texts
    texts = {row["id"]: row["text"] for row in rows_of(cli.output)}
    assert [texts["1 first=0 second=0 parm=1"], texts["1 policies p=1"]] == [*guided, *policy]


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("ab --grid 0,x", 2, "cannot be read: write numbers"),
        ("ab --grid 0", 2, "one of them not 0"),
        ("ab --grid=-1,1 --soup", 2, "negative weights"),
        ("--grid 0,1", 2, "nothing to generate from"),
        ("ab --trajectory-rm third=MODELS/base", 1, "none of that name: first, second"),
        ("ab --reference 1", 2, "one per objective, in the order first, second"),
        ("ab --plot out.txt", 2, "name a .png"),
        ("ab --dpo p=MODELS/base", 1, "a soup averages LoRA adapters"),
        ("--input ROWS", 2, "has weights, which a sweep sets"),
        ("ab --reward third=MODELS/first:2", 2, "an evaluation takes none"),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line_and_nothing_is_written(cli, sweep, line, status, words):
    rows = cli.file("rows.jsonl", [{"prompt": "ab", "weights": {"first": 1}}])
    line = line.replace("MODELS", str(cli.models)).replace("ROWS", str(rows))
    sweep(*line.split(), "--output", cli.output).assert_refused(status, words)
    assert cli.left() == ["rows.jsonl"]


def test_two_objectives_are_needed_and_a_full_model_is_in_no_soup(cli):
    one = ["evaluate", "pareto", "ab", "--base", cli.models / "base", f"--reward=first={cli.models / 'first'}"]
    cli(*one).assert_refused(2, "a sweep needs two objectives and there is 1")
    full = make_model("llama", seed=8, vocab=BYTE_VOCAB)
    full.save_pretrained(cli.folder / "full")
    cli(*one, f"--reward=full={cli.folder / 'full'}", "--soup").assert_refused(1, "'full' is a full model")
