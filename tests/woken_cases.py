"""Streams of activated reward models, ordinary ones and a base, held to plain models and literal loops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from activated_cases import LiteralLoop, activated
from families import save_adapter, with_adapter
from fused_cases import LORA, continued, stream_logits, untouched
from torch import Tensor

from genarm import GuidedDecoder
from genarm.models.activation import Activation


@dataclass(frozen=True)
class Woken:
    """The literal loop of an adapter that wakes as ``activation`` says."""

    loop: LiteralLoop
    activation: Activation

    def logits(self, prompt: Tensor, text: Tensor) -> Tensor:
        """[len(text) - len(prompt) + 1, V] after the prompt and each token that the text has behind it."""
        awake = self.activation.awake(prompt.tolist())
        return self.loop.logits(text, len(prompt) - awake)[awake - 1 :]


def woken(base: Any, folder: Path, seed: int, tokens: tuple[int, ...] = ()) -> tuple[Path, Woken]:
    """A random activated adapter in a folder, and its literal loop."""
    activated(base, "llama", folder, seed, tokens, **LORA)
    return folder, Woken(LiteralLoop(base, folder), Activation(tokens))


def mixed(base: Any, count: int, folder: Path, ordinary: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """So many activated reward models on ``base`` and so many ordinary ones, as a decoder takes them, and the plain
    models of all streams, the base's first. The base itself is not touched."""
    rewards: dict[str, Any] = {}
    plain: list[Any] = [untouched(base)]
    for place in range(count + ordinary):
        own, seed = folder / str(place), 4 + place
        if place < count:
            rewards[f"r{place}"], model = woken(base, own, seed)
        else:
            rewards[f"r{place}"] = save_adapter(base, "llama", own, seed=seed, **LORA)
            model = with_adapter(base, own)
        plain.append(model)
    return rewards, plain


def plain_logits(plain: Any, prompts: list[Tensor], steps: int) -> Tensor:
    """[steps + 1, B, V] after each prompt and each token behind it."""
    rows = []
    for prompt, text in zip(prompts, continued(prompts, steps), strict=True):
        if isinstance(plain, Woken):
            rows.append(plain.logits(prompt, text))
        else:
            with torch.no_grad():
                rows.append(plain(input_ids=text[None]).logits[0, -steps - 1 :])
    return torch.stack(rows, 1)


def assert_streams_are(
    decoder: GuidedDecoder, plain: list[Any], prompts: list[list[Tensor]], steps: int = 5, tolerance: float = 1e-4
) -> None:
    """Every stream is its plain model, in ragged rows, from the prompt on."""
    found = stream_logits(decoder, prompts, steps)
    for stream, (model, own) in enumerate(zip(plain, prompts, strict=True)):
        expected = plain_logits(model, own, steps)
        error = float((found[stream] - expected.float()).abs().max())
        assert error < tolerance, f"stream {stream}: logits up to {float(expected.abs().max()):.1f} are {error:.1e} off"


def greedy(plain: list[Any], weights: list[float], prompt: Tensor, steps: int) -> list[int]:
    """Greedy tokens of the literal loop, up to the first near tie, after which float32 may differ."""
    text = prompt
    for _ in range(steps):
        total = torch.zeros((), dtype=torch.float64)
        for model, weight in zip(plain, weights, strict=True):
            if isinstance(model, Woken):
                logits = model.logits(prompt, text)[-1]
            else:
                with torch.no_grad():
                    logits = model(input_ids=text[None]).logits[0, -1]
            total = total + weight * logits.double().log_softmax(-1)
        top = total.topk(2).values
        if float(top[0] - top[1]) < 1e-4:
            break
        text = torch.cat([text, total.argmax()[None]])
    return text[len(prompt) :].tolist()
