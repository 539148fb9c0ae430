"""How long texts are at each guidance weight, and what EOS has to do with it.

A text's length follows from two things: what is written, and when EOS is drawn after what was written. Guidance changes
both. The guided distribution without EOS draws what would be written if nothing ended, and along such a path the chance
of EOS at every prefix is known under the base and under guidance, so that the expected length is a sum over the path:
E[length] = Σ_t Π_{s<t} (1 − p_s(EOS)). Paths by the base or by guidance, ended as by the base or by guidance, are four
expected lengths. The content's part is what guided paths change while the base ends them, and EOS's part what guided
endings change on those paths. The other order would ask when guidance ends what the base writes, which nobody decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.embedded.models import load_arm, load_base
from experiments.weak_to_strong.gap import mean_estimate
from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

WEIGHTS = (0.0, 0.5, 1.0, 2.0)
NEW_TOKENS = 64
TAKEN_APART = 1.0  # the weight at which the effect is split
AT_ONCE = 32  # paths in a forward pass


def load_decoder(names: Sequence[str]) -> GuidedDecoder:
    """The embedded base with these embedded adapters, in float32."""
    rewards = {name: REWARDS[name] for name in names}
    return GuidedDecoder.from_pretrained(
        BASE, rewards, dtype="float32", device="cpu", max_batch_size=64, max_length=128
    )


def draw(decoder: GuidedDecoder, weight: float, count: int, seed: int, **options: Any) -> Any:
    """``count`` texts from the start of a sequence, at temperature 1 without filters."""
    prompts = [[decoder.tokenizer.bos_token_id]] * count
    weights = dict.fromkeys(decoder.reward_names, weight)
    return decoder.generate(prompts, weights=weights, max_new_tokens=NEW_TOKENS, seed=seed, **options)


def lengths_by_weight(name: str, count: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Mean tokens, EOS among them, with intervals, at each weight of one adapter."""
    decoder, rows = load_decoder([name]), []
    for weight in WEIGHTS:
        outs = [draw(decoder, weight, count, seed) for seed in seeds]
        lengths = np.array([len(tokens) for out in outs for tokens in out.tokens], dtype=np.float64)
        ended = np.mean([reason == "eos" for out in outs for reason in out.finish_reasons])
        found = mean_estimate(lengths).as_dict()
        rows.append({"weight": weight, "texts": len(lengths), "tokens": found, "ended": round(float(ended), 4)})
    return rows


def rewards_of_eos(name: str, count: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Mean log-probability of EOS where the base ends a text, and of its other tokens, under base and adapter;
    None where no text ended."""
    decoder = load_decoder([name])
    outs = [draw(decoder, 0.0, count, seed, return_logprobs=True) for seed in seeds]
    ends, others = [], []
    for out in outs:
        for row, tokens in enumerate(out.tokens):
            own = out.model_logprobs[row, : len(tokens)].double()
            ended = out.finish_reasons[row] == "eos"
            ends += own[-1:].tolist() if ended else []
            others += own[:-1].tolist() if ended else own.tolist()
    return {
        f"{kind}_{model}": round(float(np.mean([row[column] for row in rows])), 4) if rows else None
        for kind, rows in {"eos": ends, "other": others}.items()
        for column, model in enumerate(("base", "reward"))
    }


def expected_lengths(chances: Tensor) -> Tensor:
    """[N] expected tokens, EOS among them, of [N, T] chances of EOS before each of the T tokens of a path."""
    alive = torch.cumprod(1 - chances, dim=1)
    return 1 + alive[:, :-1].sum(1)


@torch.no_grad()
def chances_of_eos(models: Sequence[Any], weights: Sequence[float], paths: Tensor, bos: int, eos: int) -> list[Tensor]:
    """[N, T] float64 chance of EOS before each token of paths [N, T], for each weight of the second of two models."""
    found: list[list[Tensor]] = [[] for _ in weights]
    for rows in paths.split(AT_ONCE):
        prefixes = torch.cat([torch.full((len(rows), 1), bos), rows[:, :-1]], dim=1)
        base, reward = (model(prefixes).logits.log_softmax(-1) for model in models)
        for weight, parts in zip(weights, found, strict=True):
            parts.append((base + weight * reward).log_softmax(-1)[..., eos].exp().double())
    return [torch.cat(parts) for parts in found]


def paths_of(decoder: GuidedDecoder, weight: float, count: int, seed: int, eos: int) -> Tensor:
    """[N, T] tokens of the guided distribution without EOS."""
    out = draw(decoder, weight, count, seed, eos_token_id=[], logit_bias={eos: -torch.inf})
    return torch.stack(out.tokens)


def parts(name: str, count: int, seeds: Sequence[int], weight: float = TAKEN_APART) -> dict[str, Any]:
    """The change of the expected length at one weight, and what of it EOS and the content are."""
    decoder = load_decoder([name])
    bos, eos = decoder.tokenizer.bos_token_id, decoder.tokenizer.eos_token_id
    models = load_base(BASE), load_arm(BASE, REWARDS[name])
    lengths: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    for content, strength in (("base", 0.0), ("guided", weight)):
        paths = torch.cat([paths_of(decoder, strength, count, seed, eos) for seed in seeds])
        chances = chances_of_eos(models, (0.0, weight), paths, bos, eos)
        for ending, own in zip(("base", "guided"), chances, strict=True):
            lengths[content, ending] = expected_lengths(own).numpy()
    return {"weight": weight, "paths": count * len(seeds), **shares(lengths)}


def shares(lengths: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Of expected lengths per path, by (content, ending): their means, the whole change, and its two parts."""
    plain, written, guided = (lengths[one] for one in (("base", "base"), ("guided", "base"), ("guided", "guided")))
    changes = {"change": guided - plain, "content_part": written - plain, "eos_part": guided - written}
    means = {
        f"{content} content, {ending} endings": mean_estimate(values).as_dict()
        for (content, ending), values in lengths.items()
    }
    return {"lengths": means, **{part: mean_estimate(values).as_dict() for part, values in changes.items()}}
