"""Scorers at work: a base, adapters on it, full models, trajectory RMs, each loaded once and scored on every data set.

AR-RMs and DPO policies run as in training, through PEFT and transformers' own forward pass. An adapter is put on the
base, scored, and taken off again, so that no two are ever on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from ..errors import GenARMError, InvalidArgumentError, LoadingError, UnsupportedAdapterError
from ..models.adapters import LoraAdapter, read_adapter
from ..models.asleep import SleepingAdapter, put_on
from ..models.causal import inner_model
from ..models.files import adapter_folder, is_adapter, model_source, read_json
from ..models.loading import full_model, load_model, load_tokenizer
from ..models.options import Source
from ..models.reward_bases import named_base, own_base_of, warn_of_another, warn_of_own
from ..models.scalar import load_trajectory_rm
from ..models.vocabulary import check_vocabularies
from ..preferences.encoding import EncodedPair
from ..preferences.scoring import pair_rewards, sequence_scores
from .choices import OPTIONS, Choice

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal LM, in memory until the next is asked for. ``base`` is what its adapter is on, or it is held against;
    ``asleep`` that adapter, where it sleeps on prompts."""

    choice: Choice
    model: Any
    base: str
    asleep: SleepingAdapter | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """A scorer's scores of every data set, [N, 2] each: chosen and rejected. ``beta`` is DPO's, None elsewhere."""

    choice: Choice
    values: list[Floats]
    beta: float | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loaders' bars and remarks, and with one line where memory ran out."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise GenARMError(
            f"memory ran out ({error}): choose a smaller --batch-size, --max-length or --dtype"
        ) from error


def fitting_length(base: str, asked: int | None, trust_remote_code: bool = False) -> int | None:
    """The most tokens of prompt and response that the base has positions for, or fewer if fewer are asked for."""
    try:
        config = AutoConfig.from_pretrained(model_source(full_model(base)), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise LoadingError(f"{base}: its config.json cannot be read ({error}): copy or save the model again") from None
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if asked is None or positions is None:
        return asked or positions
    if asked > positions:
        raise InvalidArgumentError(f"--max-length is {asked}, and the base has {positions} positions: lower it")
    return asked


def causal_models(base: str, choices: Sequence[Choice], source: Source, tokenizer: Any) -> Iterator[Loaded]:
    """The base under the name "base", then every AR-RM and DPO policy; an adapter's own base, if another, before it.

    Raises:
        GenARMError: a model that cannot be loaded, or is of another architecture, vocabulary or kind.
    """
    causal = [choice for choice in choices if choice.kind != "trajectory-rm"]
    for choice in choices:
        _check_kind(choice)
    adapters = {choice.name: read_adapter(adapter_folder(choice.path)) for choice in causal if is_adapter(choice.path)}
    model = load_model(base, source)
    groups: dict[str, list[Choice]] = {base: []}
    for choice in causal:
        if choice.name in adapters:
            groups.setdefault(_place(choice, adapters[choice.name], model, base), []).append(choice)
    size = 0
    for place, members in groups.items():
        model = model if place == base else load_model(place, source)
        size = size or _vocabulary(model)
        for choice in members:
            adapters[choice.name].fit(inner_model(model))
            check_vocabularies(size, _vocabulary(model), tokenizer, load_tokenizer(place), choice.name)
        yield Loaded(Choice("base", "base", place), model, place)
        for choice in members:
            wrapped, activation = put_on(model, adapter_folder(choice.path)), adapters[choice.name].activation
            asleep = None if activation is None else SleepingAdapter(wrapped, activation)
            yield Loaded(choice, wrapped, place, asleep)
            model = wrapped.unload()
    for choice in causal:
        if choice.name not in adapters:
            model = load_model(choice.path, source)
            check_vocabularies(size, _vocabulary(model), tokenizer, load_tokenizer(choice.path), choice.name)
            yield Loaded(choice, model, base)


def _place(choice: Choice, adapter: LoraAdapter, model: Any, base: str) -> str:
    """The base that an adapter is scored on, as in decoding: the one chosen, the one given where it fits, its own."""
    if choice.base is not None:
        return named_base(choice.base, adapter.path, adapter.base_name, base)
    try:
        adapter.fit(inner_model(model))
    except UnsupportedAdapterError as misfit:
        recorded = own_base_of(adapter, base, misfit)
        warn_of_own(choice.name, recorded, base)
        return recorded
    warn_of_another(choice.name, adapter.base_name, base)
    return base


def pair_scores(
    base: str,
    choices: Sequence[Choice],
    data: Sequence[Sequence[EncodedPair]],
    tokenizer: Any,
    source: Source,
    batch_size: int = 64,
) -> Iterator[Scores]:
    """The base's Σ log π of every response of every data set, and each choice's score.

    An AR-RM's score is its Σ log π, DPO's is β · (Σ log π − Σ log π of its base), a trajectory RM's its own.
    """
    settings = (tokenizer.pad_token_id, batch_size, sys.stderr.isatty())
    references: dict[str, list[Floats]] = {}
    for loaded in causal_models(base, choices, source, tokenizer):
        choice, beta = loaded.choice, None
        sums = [pair_rewards(loaded.model, pairs, *settings, loaded.asleep).numpy() for pairs in data]
        if choice.kind == "base":
            references[loaded.base] = sums
            if loaded.base != base:
                continue
        if choice.kind == "dpo":
            beta = _beta(choice)
            sums = [beta * (own - other) for own, other in zip(sums, references[loaded.base], strict=True)]
        yield Scores(choice, sums, beta)
    for choice in choices:
        if choice.kind == "trajectory-rm":
            model = trajectory_rm(base, choice, source, tokenizer)
            yield Scores(choice, [sequence_scores(model, pairs, *settings).numpy() for pairs in data])


def trajectory_rm(base: str, choice: Choice, source: Source, tokenizer: Any) -> Any:
    """A sequence classifier of one label: a full model, or an adapter with its score on the base (or its own base)."""
    model, place = load_trajectory_rm(choice.name, choice.path, source, base, choice.base)
    check_vocabularies(len(tokenizer), _vocabulary(model), tokenizer, load_tokenizer(place), choice.name)
    model.config.pad_token_id = tokenizer.pad_token_id  # tells it where a sequence ends
    return model


def _check_kind(choice: Choice) -> None:
    """A record beside the weights says what they are; a causal LM does not score as a classifier, nor the reverse."""
    recorded = _recorded(choice).get("kind")
    if recorded in OPTIONS and (recorded == "trajectory-rm") != (choice.kind == "trajectory-rm"):
        raise InvalidArgumentError(
            f"{choice.path} was trained as {recorded}: pass it as {OPTIONS[recorded]} {choice.name}=PATH"
        )


def _beta(choice: Choice) -> float:
    """DPO's β from the record; 1 where there is none, which changes no order."""
    beta = _recorded(choice).get("beta")
    return float(beta) if isinstance(beta, int | float) and beta > 0 else 1.0


def _recorded(choice: Choice) -> dict[str, Any]:
    path = Path(choice.path) / "training.json"
    return read_json(path) if path.is_file() else {}


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
