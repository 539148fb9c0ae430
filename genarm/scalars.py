"""Models of one number beside a decoder: trajectory RMs and value heads, loaded once per base, and what they say of
texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn

from .engine.build import EngineSettings
from .engine.reader import reading
from .errors import InvalidArgumentError, PromptError
from .models.causal import CausalModel
from .models.options import Source
from .models.scalar import HEADS, ScalarModel, scalar_model
from .request.facts import ModelFacts

# A path or hub id, a loaded classifier, or one that `scalar` has made.
Scorer = str | Path | nn.Module | ScalarModel
# Settings whose model is read at every token; the others' is read at the end of a text, before its padding.
AT_EVERY_TOKEN = ("value_head", "value")
# {a base: {how it is to run: the model it came to, and what it was made of, to see whether that has changed}}, of what
# comes from files, and the same for each module that was given, which is not kept alive.
Loaded = dict[Any, tuple[ScalarModel, list[tuple[Any, int]]]]
_LOADED: WeakKeyDictionary[Any, Loaded] = WeakKeyDictionary()
_GIVEN: WeakKeyDictionary[Any, WeakKeyDictionary[Any, Loaded]] = WeakKeyDictionary()


class Beside(Protocol):
    """The decoder beside which such a model reads: what is needed of a ``GuidedDecoder``."""

    models: list[CausalModel]
    settings: EngineSettings
    source: Source
    tokenizer: Any
    max_batch_size: int

    def facts(self) -> ModelFacts: ...


def scalar(decoder: Beside, given: Scorer, name: str) -> ScalarModel:
    """The model that setting ``name`` of a call means, on the decoder's device and in its dtype; what was loaded from a
    path is kept as long as the base, what was put together from a module as long as both, or until that has another
    head, or other weights in the adapters around it.

    Raises:
        GenARMError: it is none, or none of the decoder's vocabulary.
    """
    if isinstance(given, ScalarModel):
        return given
    if not isinstance(given, str | Path | nn.Module) or given == "":
        raise InvalidArgumentError(
            f"{name} is {given!r}: pass the path of a trajectory RM (genarm train trajectory-rm makes one) or a loaded "
            "sequence classifier"
        )
    base, fuse = decoder.models[0], decoder.settings.engine != "hf"
    if isinstance(given, nn.Module):
        kept = _GIVEN.setdefault(base.module, WeakKeyDictionary()).setdefault(given, {})
    else:
        kept = _LOADED.setdefault(base.module, {})
    key = (name, fuse, None if isinstance(given, nn.Module) else str(given))
    parts = _parts(given)
    known, made_of = kept.get(key) or (None, [])
    if known is None or not _are_same(made_of, parts):
        modes = [(one, one.training) for one in given.modules()] if isinstance(given, nn.Module) else []
        source = decoder.source
        known = scalar_model(name, given, source, base.runs_on, base.vocab_size, decoder.tokenizer, fuse)
        for one, training in modes:  # reading it is no reason to end its training
            one.training = training
        known = _read_before_the_end(decoder, known)
        kept[key] = known, parts
    return known


def _read_before_the_end(decoder: Beside, scorer: ScalarModel) -> ScalarModel:
    """A trajectory RM whose padding ends a text too is read before that, as transformers reads it, in training as well.
    Value heads are read at every token."""
    ends = scorer.name not in AT_EVERY_TOKEN and scorer.silent in decoder.facts().eos_ids
    return scorer if ends else replace(scorer, silent=None)


def _parts(given: Scorer) -> list[tuple[Any, int]]:
    """What a loaded scorer is made of, other than weights that are read where they are."""
    if isinstance(given, PeftModel):  # a merged copy is decoded
        weights = [(one, 0 if one.is_inference() else one._version) for one in given.parameters()]
        return [*weights, *((one, 0) for one in given.active_adapters)]
    if isinstance(given, nn.Module):
        body = getattr(given, getattr(given, "base_model_prefix", "") or "model", None)
        return [(one, 0) for one in (body, *(getattr(given, head, None) for head in HEADS))]
    return []


def _are_same(before: Sequence[tuple[Any, int]], now: Sequence[tuple[Any, int]]) -> bool:
    return len(before) == len(now) and all(
        (old is new or (isinstance(old, str) and old == new)) and version == current
        for (old, version), (new, current) in zip(before, now, strict=True)
    )


def text_scores(scorer: ScalarModel, texts: Sequence[Sequence[int]], decoder: Beside) -> Tensor:
    """What a model of one number says of each text of tokens, [N] float32 on the CPU, read in batches of one length
    about, of the decoder's ``max_batch_size``.

    Raises:
        PromptError: a text holds an id that the model lacks.
    """
    known = scorer.model.input_vocab_size
    for row, text in enumerate(texts):
        if max(text, default=0) >= known:
            raise PromptError(f"text {row} holds token id {max(text)}, and {scorer.name} has {known} ids")
    scores = torch.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), decoder.max_batch_size):
        rows = order[start : start + decoder.max_batch_size]
        read = [[*texts[row]] for row in rows]
        read = [text[:-1] if len(text) > 1 and text[-1] == scorer.silent else text for text in read]
        with reading(scorer.models, scorer.backbones, read, 0) as reader:
            scores[rows] = reader.prefill(read)[0][:, 0].float().cpu()
    return scores
