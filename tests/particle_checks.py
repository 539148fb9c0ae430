"""Particles on models that are known whole, through a decoder's own calls, in any number of systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from particle_tables import Target, direct_divergence, divergence, enumerated, masses
from torch import Tensor

from genarm import GuidedDecoder
from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import Tables, answers, kl
from genarm.evaluation.tabular_models import lm_from_tables, scorer_from_values
from genarm.evaluation.tabular_problems import random_problem

WORDS, LENGTH = 4, 3  # ids and tokens of an answer where all have as many
V, T, EOS = 3, 5, 2  # where EOS may end them early
PROMPT = torch.tensor([1])
BETAS = (0.3, 1.0)
RARE = 0.1  # few systems say nothing of less


def instance(seed: int) -> list[tuple[Tables, Tables, Target]]:
    """A base, the reward model that learned a random reward, and the target of guidance by it, for each of BETAS."""
    found = []
    for beta in BETAS:
        problem = random_problem(WORDS, LENGTH, beta, seed=seed)
        reward_model = methods.bradley_terry_optimum(problem, 1.0)
        target = enumerated([problem.base, reward_model], [1.0, 1 / beta])
        assert torch.allclose(target.product, problem.optimum)  # the best policy is what particles draw from
        found.append((problem.base, reward_model, target))
    return found


def divergences(
    systems: Mapping[int, int], instances: int = 10, direct: bool = False, **options: Any
) -> dict[int, float]:
    """{N: the mean KL to the product of N particles}, of plain decoding for N = 1, over random instances and BETAS.
    ``systems``: {N: how many of each}."""
    found: dict[int, list[float]] = {1: []} | {count: [] for count in systems}
    for seed in range(instances):
        cases = instance(seed)
        base, reward_model, _ = cases[0]
        decoder = GuidedDecoder(lm_from_tables(base), {"r": lm_from_tables(reward_model)}, max_batch_size=4096)
        found[1] += [kl(target.drawn, target.product) for *_, target in cases]
        for count, each in systems.items():
            out = decoder.generate(
                [PROMPT] * each * len(BETAS), beta=[beta for beta in BETAS for _ in range(each)], particles=count,
                return_particles=True, max_new_tokens=LENGTH, eos_token_id=[], seed=seed, **options,
            )  # fmt: skip
            mass = masses(out, WORDS, LENGTH).split(each)
            assert out.log_evidence is not None
            for own, evidence, (*_, target) in zip(mass, out.log_evidence.split(each), cases, strict=True):
                found[count].append(direct_divergence(own, target) if direct else divergence(own, evidence, target))
    return {count: sum(values) / len(values) for count, values in found.items()}


class Setting(NamedTuple):
    """What rows of one call may differ in: the weights of two reward models, and filters."""

    weights: tuple[float, float]
    temperature: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    base_min_p: float = 0.0

    def target(self, models: Sequence[Tables]) -> Target:
        """A row may end early, with EOS."""
        filters = {"top_k": self.top_k, "min_p": self.min_p, "base_min_p": self.base_min_p}
        return enumerated(models, [1.0, *self.weights], self.temperature, eos=EOS, **filters)


# Each cuts off about half of the product, with EOS after three tokens in the mean.
SETTINGS = (
    Setting((1.0, -0.5), temperature=0.7, top_k=2),
    Setting((0.6, 0.8), temperature=0.7, min_p=0.2),
    Setting((0.9, 0.5), base_min_p=0.35),
)


# What a terminal reward says of every prefix, t = 0 … T: answers may end early.
VALUES = [torch.randn(V**t, generator=torch.Generator().manual_seed(t), dtype=torch.float64) for t in range(T + 1)]


def reward_of(target: Target) -> Tensor:
    """[V^T], of the answers as they end."""
    numbers = torch.arange(V**T).tolist()
    pairs = zip(numbers, target.lengths.tolist(), strict=True)
    return torch.stack([VALUES[length][number // V ** (T - length)] for number, length in pairs])


def pairs() -> Tensor:
    """[V^T, (T − 1)·V²] float64, 1 where an answer has a pair of tokens at two places in a row, 0 elsewhere."""
    every = answers(V, T)
    both = every[:, :-1] * V + every[:, 1:]
    return torch.nn.functional.one_hot(both, V * V).flatten(1).double()


def three_models() -> list[Tables]:
    """A base and two reward models of random logits, those of EOS lower than the others."""
    return [random_tables(seed) for seed in (591, 592, 593)]


def random_tables(seed: int) -> Tables:
    generator, less = torch.Generator().manual_seed(seed), 0.5 * (torch.arange(V) == EOS)
    logits = [torch.randn(V**t, V, generator=generator, dtype=torch.float64) for t in range(T)]
    return [(0.7 * rows - less).log_softmax(1) for rows in logits]


def decoder_of(models: Sequence[Tables]) -> GuidedDecoder:
    base, *rewards = (lm_from_tables(tables) for tables in models)
    return GuidedDecoder(base, rewards, max_batch_size=4096)


def estimates(
    decoder: GuidedDecoder,
    targets: Sequence[Target],
    systems: int,
    particles: int,
    settings: Sequence[Setting],
    **options: Any,
) -> list[tuple[Tensor, Tensor]]:
    """For each setting: E[Ẑ · f] / Z − π(f) over the systems and its standard error, [F] each, π the product. f is the
    share of all particles, which is 1, and of those with two given tokens one behind the other, where π(f) > RARE."""
    rows, beta = [one for one in settings for _ in range(systems)], options.get("beta", 1.0)
    filters = {name: [getattr(row, name) for row in rows] for name in Setting._fields[1:]}
    out = decoder.generate(
        [PROMPT] * len(rows), weights=torch.tensor([row.weights for row in rows]) * beta, particles=particles,
        return_particles=True, max_new_tokens=T, eos_token_id=[EOS], **filters | options,
    )  # fmt: skip
    assert out.log_evidence is not None and not out.errors
    whole, functions, found = torch.ones(V**T, 1, dtype=torch.float64), pairs(), []
    mass = masses(out, V, T).split(systems)
    for own, evidence, target in zip(mass, out.log_evidence.split(systems), targets, strict=True):
        share = target.product.exp()
        often = torch.cat([whole, functions[:, share @ functions > RARE]], 1)
        off = (evidence - target.log_z).exp()[:, None] * (own @ often) - share @ often
        found.append((off.mean(0), off.std(0) / systems**0.5))
    return found


def assert_unbiased(
    systems: Mapping[int, int], largest: float, settings: Sequence[Setting] = SETTINGS, **options: Any
) -> None:
    """E[Ẑ] = Z within 4 standard errors, each at most ``largest`` · Z, and so is every marginal of Ẑ · particles within
    5. ``systems``: {N: how many of each setting}."""
    models = three_models()
    decoder, targets = decoder_of(models), [setting.target(models) for setting in settings]
    bonus, terminal = options.get("length_bonus", 0.0), options.get("terminal")
    targets = [target.times(bonus * target.lengths) for target in targets]
    if terminal is not None:
        targets = [target.times(reward_of(target) / options["beta"]) for target in targets]
        options["terminal"] = scorer_from_values(V, VALUES)
    for particles, count in systems.items():
        for off, error in estimates(decoder, targets, count, particles, settings, **options):
            assert float(error.max()) < largest, f"{count} systems say too little: ± {float(error.max()):.3f}"
            worst = (off.abs() / error.clamp(min=1e-9)).tolist()
            assert worst[0] < 4 and max(worst) < 5, f"N = {particles}: off by {worst[0]:.1f}, {max(worst):.1f} errors"


def assert_followers_go_on_with_the_text_they_took_over(**options: Any) -> None:
    """A base that repeats its first token for ever, and a reward model that has next to nothing for 1 behind a 1: what
    began with 1 is replaced, and its place goes on with the token of what it was replaced by."""
    base, reward_model = [torch.zeros(1, V)], [torch.zeros(1, V)]
    for t in range(1, T):
        first = torch.arange(V**t) // V ** (t - 1)
        base.append(14.0 * torch.nn.functional.one_hot(first, V))
        reward_model.append(torch.tensor([0.0, -6.0, 0.0]).expand(V**t, V))
    models = [[table.double().log_softmax(1) for table in tables] for tables in (base, reward_model)]
    out = decoder_of(models).generate(
        [PROMPT] * 8, particles=8, resample_below=1.0, return_particles=True, max_new_tokens=T, eos_token_id=[],
        **options,
    )  # fmt: skip
    assert out.particles is not None
    texts = torch.stack([tokens for one in out.particles for tokens in one.tokens])
    assert bool((texts == texts[:, :1]).all()) and float((texts == 1).double().mean()) < 0.05
