"""Seconds per token of the large base under each reward model over those without one, beside a floor by bytes.

A step reads every weight once, so a model of n bytes beside a base of N costs at least 1 + n/N where reading weights is
what takes the time. An adapter on the base's own weights adds its own bytes alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from safetensors import safe_open

from experiments.embedded.models import load_arm, load_base
from experiments.weak_to_strong.models import SIZES, Place
from experiments.weak_to_strong.texts import load_decoder
from genarm import GuidedDecoder

FLOAT = 4  # bytes
BATCHES = (1, 16)
NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Way:
    """One way to decode, and the bytes of weights that its step reads."""

    name: str
    decoder: Callable[[], GuidedDecoder]
    weights: int


def ways(place: Place) -> Iterator[Way]:
    """The large base alone, with each smaller reward model on its own base, and with one of its size in both ways."""
    large = _base_bytes(place, "large")
    yield Way("no guidance", lambda: load_decoder(place, "large", None), large)
    for size in SIZES:
        adapter = _adapter_bytes(place.reward_model(size))
        if size == "large":
            name = "large, an adapter on the base's weights"
            yield Way(name, lambda: load_decoder(place, "large", "large"), large + adapter)
            yield Way("large, weights of its own", lambda: _separate(place), 2 * large)
        else:
            own = _base_bytes(place, size) + adapter
            yield Way(f"{size}, on its own base", _of(place, size), large + own)


def _of(place: Place, size: str) -> Callable[[], GuidedDecoder]:
    return lambda: load_decoder(place, "large", size)


def _separate(place: Place) -> GuidedDecoder:
    """The large reward model merged into a second copy of the base, as one that was trained whole would be."""
    merged: Any = load_arm(place.base("large"), place.reward_model("large")).merge_and_unload()
    plain = load_decoder(place, "large", None)
    return GuidedDecoder(plain.base_model, {"large": merged}, plain.tokenizer, max_batch_size=max(BATCHES))


def _base_bytes(place: Place, size: str) -> int:
    return FLOAT * int(load_base(place.base(size)).num_parameters())


def _adapter_bytes(folder: Path) -> int:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return FLOAT * sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def measure(place: Place, rounds: int) -> list[dict[str, Any]]:
    """Per way and batch size: seconds per step (a token of every text) and over no guidance, medians and quartiles.

    All ways take turns in every round, and a ratio is of one round's times, so that what else the machine does falls on
    both of its sides.
    """
    found = list(ways(place))
    decoders = [way.decoder() for way in found]
    rows = []
    for batch in BATCHES:
        times = np.array([_round(decoders, batch) for _ in range(rounds + 1)])[1:]  # the first warms up
        ratios = times / times[:, :1]
        for number, (way, decoder) in enumerate(zip(found, decoders, strict=True)):
            low, high = np.percentile(ratios[:, number], [25, 75])
            rows.append(
                {
                    "reward_model": way.name,
                    "batch": batch,
                    "runs_on": "+".join(dict.fromkeys(row["path"] for row in decoder.describe())),
                    "seconds_per_step": round(median(times[:, number].tolist()) / NEW_TOKENS, 6),
                    "ratio": round(median(ratios[:, number].tolist()), 3),
                    "quartiles": [round(float(low), 3), round(float(high), 3)],
                    "weights_mib": round(way.weights / 2**20, 2),
                    "floor": round(way.weights / found[0].weights, 3),
                }
            )
    return rows


def _round(decoders: list[GuidedDecoder], batch: int) -> list[float]:
    """Seconds of every way, one after the other. No text ends early."""
    seconds = []
    for decoder in decoders:
        prompts = [[decoder.tokenizer.bos_token_id]] * batch
        started = time.perf_counter()
        decoder.generate(prompts, max_new_tokens=NEW_TOKENS, eos_token_id=[], seed=0)
        seconds.append(time.perf_counter() - started)
    return seconds
