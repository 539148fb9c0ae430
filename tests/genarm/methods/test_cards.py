"""CARDS against its definition, written out: one row, one segment, one whole text at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from method_cases import assert_same_rows, make_scorer, next_logits, score_of

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError, NumericalError
from genarm.methods.draws import attempt_seed

LIMIT = 11
RULES: dict[str, Any] = {"horizon": 10, "tau": 0.5, "attempts": 3, "entropy": 1.5, "shortest": 2,
                         "longest": 4}  # fmt: skip
ENDS = [2, *range(60, 70)]


@dataclass
class Literal:
    """One row. ``kept`` counts the segments that were kept after too many rejections, ``lengths`` are the segments';
    ``reads`` are the tokens behind the prompt that the base and the judge have to read."""

    tokens: list[int] = field(default_factory=list)
    score: float = math.nan
    rejections: int = 0
    kept: int = 0
    lengths: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=lambda: [0, 0])

    def count(self, tried: list[list[int]], chosen: list[int], longest: int) -> None:
        """What a segment took; the row's tokens are those before it. Behind a segment that cannot grow, the base is
        asked for nothing until it is chosen."""
        full = [len(one) == longest or ended([*self.tokens, *one]) for one in tried]
        self.reads[0] += sum(map(len, tried)) - sum(full)
        self.reads[1] += sum(map(len, tried))
        if not ended([*self.tokens, *chosen]):
            again = chosen != tried[-1]
            self.reads[0] += len(chosen) if again else full[-1]
            self.reads[1] += len(chosen) if again else 0


def peaked(family: str) -> Any:
    """A base whose entropies differ from text to text."""
    base = make_model(family)
    with torch.no_grad():
        base.get_output_embeddings().weight.mul_(15.0)
    return base


def ended(tokens: list[int]) -> bool:
    return len(tokens) == LIMIT or tokens[-1] in ENDS


def segment_behind(base: Any, text: list[int], before: int, seed: int, rules: dict[str, Any]) -> list[int]:
    """``before``: tokens of the answer that the text ends in."""
    found: list[int] = []
    while True:
        logits = next_logits(base, [*text, *found])
        probabilities = logits.double().softmax(0)
        entropy = -sum(float(p) * math.log(float(p)) for p in probabilities if p > 0)
        if len(found) == rules["longest"] or (len(found) >= rules["shortest"] and entropy >= rules["entropy"]):
            return found
        sample = genarm_kernels.reference.guided_sample(
            [logits[None]],
            torch.ones(1),
            temperature=0.9,
            top_k=30,
            seed=torch.tensor([seed]),
            position=torch.tensor([len(text) + len(found)]),
        )
        found.append(int(sample.tokens))
        if before + len(found) == LIMIT or found[-1] in ENDS:
            return found


def literal(base: Any, scorer: Any, prompt: list[int], seed: int, target: float) -> Literal:
    rules, row, random = {**RULES, "target": target}, Literal(), Random(seed)
    start = 0.5 * score_of(scorer, prompt) + 0.5 * rules["target"]
    while not row.tokens or not ended(row.tokens):
        tried: list[tuple[float, list[int]]] = []
        text = [*prompt, *row.tokens]
        while True:
            segment = segment_behind(base, text, len(row.tokens), attempt_seed(seed, row.rejections), rules)
            row.lengths.append(len(segment))
            tried.append((score_of(scorer, [*text, *segment]), segment))
            share = min(1.0, (len(row.tokens) + len(segment)) / rules["horizon"])
            threshold = min(rules["target"], start + share * (rules["target"] - start))
            if random.random() < min(1.0, math.exp((tried[-1][0] - threshold) / rules["tau"])):
                row.score, chosen = tried[-1]
                break
            row.rejections += 1
            if len(tried) == rules["attempts"]:
                row.score, chosen = max(tried, key=lambda one: one[0])
                row.kept += 1
                break
        row.count([segment for _, segment in tried], chosen, rules["longest"])
        row.tokens += chosen
    return row


@pytest.mark.parametrize(("family", "target"), [("llama", 4.0), ("gpt2", -3.5)], ids=["llama", "gpt2"])
def test_cards_is_its_definition(family: str, target: float) -> None:
    base, scorer = peaked(family), make_scorer(family, seed=7)
    prompts = random_prompts([5, 9, 3])
    settings = {**RULES, "target": target, "eos_token_id": ENDS, "temperature": 0.9, "top_k": 30}
    decoder = GuidedDecoder(base, max_batch_size=2)
    out = methods["cards"].generate(decoder, prompts, trajectory_rm=scorer, **settings, max_new_tokens=LIMIT, seed=3)
    seeds = genarm_kernels.row_seeds(3, 3).tolist()
    rows = [literal(base, scorer, prompt.tolist(), seed, target) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert_same_rows(out, [row.tokens for row in rows])
    assert out.scores.tolist() == pytest.approx([row.score for row in rows], abs=1e-3)
    reads = [sum(row.reads[model] for row in rows) + 5 + 9 + 3 for model in (0, 1)]
    assert out.stats.forwarded == {"base": reads[0], "trajectory_rm": reads[1]}
    # every way that a segment can end, and be taken, is there
    lengths = [length for row in rows for length in row.lengths]
    assert min(lengths) < 4 and max(lengths) == 4 and sum(row.kept for row in rows)
    assert 0 < sum(row.rejections for row in rows) < len(lengths)
    assert set(out.finish_reasons) == {"eos", "length"}


def test_a_segment_is_read_once_by_either_model() -> None:
    """Of the last one, whose end is the answer's, nothing asks for what comes next."""
    decoder = GuidedDecoder(make_model("llama"))
    settings = {"trajectory_rm": make_scorer("llama", seed=7), "longest": 4, "entropy": 0.0, "target": -1e6}
    out = methods["cards"].generate(decoder, random_prompts([6]), **settings, eos_token_id=[], max_new_tokens=12)
    assert out.stats.forwarded == {"base": 6 + 4 + 4 + 3, "trajectory_rm": 6 + 12}


def test_a_target_is_the_mean_score_of_good_responses() -> None:
    decoder, scorer = GuidedDecoder(make_model("llama"), max_batch_size=2), make_scorer("llama", seed=7)
    prompts, responses = random_prompts([3, 6, 2]), random_prompts([4, 1, 5], seed=1)
    expected = [
        score_of(scorer, [*one.tolist(), *other.tolist()]) for one, other in zip(prompts, responses, strict=True)
    ]
    found = methods["cards"].calibrate(decoder, scorer, prompts, responses)
    assert found == pytest.approx(sum(expected) / 3, abs=1e-4)
    with pytest.raises(InvalidArgumentError, match="2 responses were given for 3 prompts"):
        methods["cards"].calibrate(decoder, scorer, prompts, responses[:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shortest": 5, "longest": 4}, "1 <= shortest <= longest"),
        ({"attempts": 0}, "attempts is 0"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"temperature": 0.0}, "a rejected segment comes again"),
        ({"top_p": 0.5}, "cards does not take 'top_p'"),
    ],
    ids=["segment", "attempts", "tau", "greedy", "option"],
)
def test_what_no_segment_can_be_drawn_by_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        methods["cards"].generate(
            GuidedDecoder(make_model("llama")), [[5]], trajectory_rm=make_scorer("llama"), **changes
        )


def test_a_judge_without_numbers_fails_its_rows() -> None:
    scorer = make_scorer("llama")
    torch.nn.init.constant_(scorer.score.weight, torch.nan)
    with pytest.raises(NumericalError, match="trajectory_rm"):
        methods["cards"].generate(GuidedDecoder(make_model("llama")), [[5, 6]], trajectory_rm=scorer)
