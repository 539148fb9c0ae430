"""Search against its definition, written out: whole texts in dictionaries, one forward pass of one text at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, word_tokenizer
from method_cases import assert_same_rows, make_scorer, next_logits, score_of

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError, RewardNameError
from genarm.methods.search import child_log_probs

EOS, LIMIT, K, WEIGHT = [2, 7, 11, 23, 30, 31, 45, 60, 71], 5, 4, 1.5
Text = tuple[int, ...]
Value = Callable[[Text], float]


class Literal:
    """What a row's texts are worth, and which tokens may follow."""

    def __init__(self, base: Any, reward: Any, scorer: Any, prompt: list[int], prior: str = "base") -> None:
        self.prompt, self.scorer, self.prior = prompt, scorer, prior
        self.log_base = cache(lambda text: next_logits(base, [*prompt, *text]).double().log_softmax(0))
        self.log_reward = cache(lambda text: next_logits(reward, [*prompt, *text]).double().log_softmax(0))
        self.value = cache(self._value)

    def _value(self, text: Text) -> float:
        """U."""
        if self.scorer is not None:
            return WEIGHT * score_of(self.scorer, [*self.prompt, *text])
        return WEIGHT * sum(float(self.log_reward(text[:t])[token]) for t, token in enumerate(text))

    def objective(self, text: Text) -> float:
        """J."""
        return sum(float(self.log_base(text[:t])[token]) for t, token in enumerate(text)) + self.value(text)

    def children(self, text: Text) -> tuple[list[int], list[float]]:
        scores = self.log_base(text) + (WEIGHT * self.log_reward(text) if self.prior == "guided" else 0)
        tokens = sorted(range(len(scores)), key=lambda token: (-float(scores[token]), token))[:K]
        return tokens, scores[tokens].softmax(0).tolist()


def is_over(text: Text) -> bool:
    return bool(text) and (text[-1] in EOS or len(text) == LIMIT)


def beam(row: Literal, width: int, power: float) -> tuple[Text, dict[str, int]]:
    """The best text, and how many tokens the base and whatever gives the values have to read."""
    texts, read = [()], dict.fromkeys(["base", "value"], len(row.prompt))
    falls = row.scorer is None and not power
    while not (all(map(is_over, texts)) or (falls and is_over(texts[0]))):
        grown = [text for text in texts if is_over(text)]
        grown += [(*text, token) for text in texts if not is_over(text) for token in row.children(text)[0]]
        read["base"] += sum(bool(text) and not is_over(text) for text in texts)
        read["value"] += sum(K for text in texts if not is_over(text))
        texts = sorted(grown, key=lambda text: -row.objective(text) / len(text) ** power)[:width]
    return texts[0], read


def sample(row: Literal, seed: int) -> Text:
    text: Text = ()
    while not is_over(text):
        scores = torch.full((1, 97), -math.inf)
        for token in row.children(text)[0]:
            scores[0, token] = row.objective((*text, token)) - row.objective(text)
        drawn = genarm_kernels.reference.guided_sample(
            [scores], torch.ones(1), seed=torch.tensor([seed]), position=torch.tensor([len(row.prompt) + len(text)])
        )
        text = (*text, int(drawn.tokens))
    return text


def puct(row: Literal, simulations: int, c: float, power: float, seed: int, tau: float) -> tuple[Text, dict[str, int]]:
    def value(text: Text) -> float:
        return row.value(text) / (max(1, len(text)) ** power if row.scorer is None else 1)

    visits, totals = defaultdict[Text, int](int, {(): 1}), defaultdict[Text, float](float)
    held: dict[str, Text] = {"base": (), "value": ()}
    read, root = dict.fromkeys(held, len(row.prompt)), ()

    def reads(model: str, text: Text) -> None:
        common = next((t for t, pair in enumerate(zip(held[model], text, strict=False)) if pair[0] != pair[1]), None)
        shared = min(len(held[model]), len(text) - 1) if common is None else min(common, len(text) - 1)
        read[model] += len(text) - shared
        held[model] = text

    while not is_over(root):
        for _ in range(simulations):
            path = [root]
            while visits[path[-1]] and not is_over(path[-1]):
                text = path[-1]
                tokens, prior = row.children(text)
                offered = [(*text, token) for token in tokens]
                unseen = [value(one) if row.scorer is None else value(text) for one in offered]
                q = [
                    totals[one] / visits[one] if visits[one] else other
                    for one, other in zip(offered, unseen, strict=True)
                ]
                low, span = min(q), max(q) - min(q)
                scores = [
                    ((mean - low) / span if span else 0.0) + c * p * math.sqrt(visits[text]) / (1 + visits[one])
                    for mean, p, one in zip(q, prior, offered, strict=True)
                ]
                path.append(offered[scores.index(max(scores))])
            leaf = path[-1]
            if not visits[leaf]:
                reads("value", leaf)
                if not is_over(leaf):
                    reads("base", leaf)
            for text in path:
                visits[text] += 1
                totals[text] += value(leaf)
        offered = [(*root, token) for token in row.children(root)[0]]
        counts = torch.tensor([[math.log(visits[one]) if visits[one] else -math.inf for one in offered]])
        sample = genarm_kernels.reference.guided_sample(
            [counts], torch.ones(1), temperature=tau, seed=torch.tensor([seed]),
            position=torch.tensor([len(row.prompt) + len(root)]),
        )  # fmt: skip
        root = offered[int(sample.tokens)]
    return root, read


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"base": make_model("llama"), "reward": make_model("llama", seed=5), "scorer": make_scorer("llama", seed=7)}


PROMPTS = [prompt.tolist() for prompt in random_prompts([5, 8, 3])]


def rows(models: dict[str, Any], by: str, prior: str = "base") -> list[Literal]:
    scorer = models["scorer"] if by == "scorer" else None
    return [Literal(models["base"], models["reward"], scorer, prompt, prior) for prompt in PROMPTS]


def searched(models: dict[str, Any], by: str, **settings: Any) -> Any:
    decoder = GuidedDecoder(models["base"], {"reward": models["reward"]}, max_batch_size=2)
    value = {"value": models["scorer"]} if by == "scorer" else {}
    settings = {"expansions": K, "weight": WEIGHT, "max_new_tokens": LIMIT, "eos_token_id": EOS, **value, **settings}
    return methods["search"].generate(decoder, PROMPTS, **settings)


@pytest.mark.parametrize(
    ("by", "prior", "power"), [("reward", "base", 0.0), ("reward", "guided", 0.7), ("scorer", "base", 0.0)]
)
def test_beam_search_is_its_definition(models: dict[str, Any], by: str, prior: str, power: float) -> None:
    out = searched(models, by, kind="beam", width=3, prior=prior, length_power=power)
    literal = rows(models, by, prior)
    found = [beam(row, 3, power) for row in literal]
    expected = [text for text, _ in found]
    assert_same_rows(out, [list(text) for text in expected])
    base, value = (sum(read[name] for _, read in found) for name in ("base", "value"))
    assert out.stats.forwarded == {"base": base, **({"reward": base} if by == "reward" else {"value": value})}
    scores = [row.objective(text) / len(text) ** power for row, text in zip(literal, expected, strict=True)]
    assert out.scores.tolist() == pytest.approx(scores, abs=1e-3)


@pytest.mark.parametrize(
    ("by", "prior", "tau"), [("reward", "base", 0.0), ("reward", "guided", 1.0), ("scorer", "base", 0.0)]
)
def test_puct_is_its_definition(models: dict[str, Any], by: str, prior: str, tau: float) -> None:
    out = searched(models, by, kind="puct", simulations=7, c_puct=1.2, prior=prior, tau=tau, seed=3)
    seeds, read, expected = genarm_kernels.row_seeds(3, 3).tolist(), defaultdict[str, int](int), []
    for row, seed in zip(rows(models, by, prior), seeds, strict=True):
        text, own = puct(row, 7, 1.2, 1.0, seed, tau)
        expected.append(list(text))
        for name, tokens in own.items():
            read[name] += tokens
    assert_same_rows(out, expected)
    second = {"reward": read["base"]} if by == "reward" else {"value": read["value"]}
    assert out.stats.forwarded == {"base": read["base"], **second}


def test_a_tree_of_one_level_is_guided_decoding(models: dict[str, Any]) -> None:
    decoder = GuidedDecoder(models["base"], {"reward": models["reward"]}, max_batch_size=2)
    guided = decoder.generate(PROMPTS, weights={"reward": WEIGHT}, seed=4, max_new_tokens=LIMIT, eos_token_id=EOS)
    out = searched(models, "reward", kind="sample", expansions=97, seed=4)
    assert_same_rows(out, [row.tolist() for row in guided.tokens])
    assert out.stats.forwarded == guided.stats.forwarded


def test_a_tree_of_one_level_draws_by_a_scorers_values(models: dict[str, Any]) -> None:
    out = searched(models, "scorer", kind="sample", seed=4)
    seeds = genarm_kernels.row_seeds(4, 3).tolist()
    literal = rows(models, "scorer")
    assert_same_rows(out, [list(sample(row, seed)) for row, seed in zip(literal, seeds, strict=True)])


def test_the_draw_of_a_tree_of_one_level_is_exact_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    log_base = torch.randn(50, dtype=torch.float64, generator=generator).log_softmax(0)
    values = 5 * torch.randn(50, dtype=torch.float64, generator=generator)
    exact = [math.exp(float(prior + value)) for prior, value in zip(log_base, values, strict=True)]
    expected = torch.tensor([one / sum(exact) for one in exact], dtype=torch.float64)
    found = child_log_probs(log_base, values)
    assert float((expected * (expected.log() - found)).sum()) < 1e-12


def test_a_beam_as_wide_as_the_tree_finds_the_mode(models: dict[str, Any]) -> None:
    """Three tokens of four ids: all 64 answers are looked at."""
    ids = [5, 40, 50, 61]
    out = searched(
        models, "reward", kind="beam", width=16, allowed_tokens=ids, max_new_tokens=3, eos_token_id=[], weight=1.0
    )
    decoder = GuidedDecoder(models["base"], {"reward": models["reward"]}, max_batch_size=64)
    answers = torch.cartesian_prod(*[torch.tensor(ids)] * 3)
    for row, prompt in enumerate(PROMPTS):
        scored = decoder.score([prompt] * 64, list(answers), allowed_tokens=ids, weights={"reward": 0})
        reward = decoder.score([prompt] * 64, list(answers))
        assert out.tokens[row].tolist() == answers[(scored.totals + reward.model_totals[:, 1]).argmax()].tolist()


def test_a_beam_reads_each_text_once_and_stops_where_nothing_can_win(models: dict[str, Any]) -> None:
    out = searched(models, "reward", kind="beam", width=2, eos_token_id=[], max_new_tokens=4)
    # Two texts of three tokens per prompt; the fourth ends them and is read by nobody.
    assert out.stats.forwarded == dict.fromkeys(["base", "reward"], sum(map(len, PROMPTS)) + 3 * 2 * 3)
    first = [int(tokens[0]) for tokens in out.tokens]
    out = searched(models, "reward", kind="beam", width=1, eos_token_id=first, max_new_tokens=4)
    assert out.stats.forwarded["base"] == sum(map(len, PROMPTS)) and out.finish_reasons == ["eos"] * 3


@pytest.mark.parametrize("method", ["beam", "puct", "sample", "transfer_q", "args"])
def test_a_failed_row_costs_no_other_its_result(models: dict[str, Any], method: str) -> None:
    base, scorer = make_model("llama"), models["scorer"]
    options: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": [], "allowed_tokens": [5, 6, 7, 8], "seed": [1, 2]}
    if method in methods:
        options |= {"trajectory_rm": scorer, **({"policy": base} if method == "transfer_q" else {})}
    else:
        options |= {"kind": method, "value": scorer}
    name = method if method in methods else "search"
    clean = methods[name].generate(GuidedDecoder(base), [[5, 6], [7, 9, 8]], **options)
    with torch.no_grad():
        base.get_input_embeddings().weight[50] = torch.nan
    out = methods[name].generate(GuidedDecoder(base), [[5, 50], [7, 9, 8]], **options)
    assert list(out.errors) == [0] and out.tokens[1].tolist() == clean.tokens[1].tolist()
    assert out.scores.isnan().tolist() == [True, False]


@pytest.mark.parametrize("method", ["search", "transfer_q"])
def test_roll_outs_and_trees_end_at_stops_as_at_ends(models: dict[str, Any], method: str) -> None:
    decoder = GuidedDecoder(models["base"], {"reward": models["reward"]}, word_tokenizer())
    options: dict[str, Any] = {"max_new_tokens": 6, "weight": 3.0}
    if method == "search":
        options |= {"kind": "puct", "expansions": 6}
    else:
        options |= {"policy": "reward", "trajectory_rm": models["scorer"], "candidates": 3, "lookahead": 3}
    ends = list(range(10, 97, 4))  # of two digits each, so that no word has another one in it
    ended = methods[method].generate(decoder, PROMPTS, eos_token_id=ends, **options)
    for stop in ([f"w{token}" for token in ends], [[token] for token in ends]):
        out = methods[method].generate(decoder, PROMPTS, eos_token_id=[], stop=stop, **options)
        assert_same_rows(out, [row.tolist() for row in ended.tokens])
        assert out.stats.forwarded == ended.stats.forwarded
        assert "stop" in out.finish_reasons and "eos" in ended.finish_reasons


def test_a_search_for_nothing_is_refused(models: dict[str, Any]) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("pass 'beam'", {"kind": "mcts"}),
        ("pass at least 1", {"width": 0}),
        ("pass at least 1", {"tau": -1.0}),
        ("leave out value", {"prior": "guided"}),
        ("does not take 'top_p'", {"top_p": 0.5}),
    ]
    for text, settings in wrong:
        with pytest.raises(InvalidArgumentError, match=text):
            searched(models, "scorer", **settings)
    with pytest.raises(RewardNameError, match="search guides by one reward model, and the decoder has none"):
        methods["search"].generate(GuidedDecoder(models["base"]), [[5]])
