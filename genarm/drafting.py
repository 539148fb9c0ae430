"""The model that drafts for a decoder: found once for every path or module, checked, and given a plan of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from .engine.build import EngineSettings
from .engine.engine import Engine
from .errors import InvalidArgumentError
from .models.causal import CausalModel, make_model
from .models.loading import load_model, load_tokenizer
from .models.options import Source
from .models.plan import Plan
from .models.vocabulary import check_vocabularies
from .request.drafts import REWARD
from .request.options import Request
from .request.speculation import MODEL


class Drafted(Protocol):
    """What is needed of a ``GuidedDecoder``."""

    engine: Engine
    models: list[CausalModel]
    settings: EngineSettings
    source: Source
    tokenizer: Any
    drafts: dict[object, Plan]


def with_draft(decoder: Drafted, request: Request) -> Request:
    """The request with the plan of the draft model that it names, if it names one.

    Raises:
        InvalidArgumentError: there is nothing to draft with, or it is on another device.
        VocabularyMismatchError: the draft model's tokens are others.
    """
    asked = request.speculate
    if asked is None:
        return request
    if asked.name == REWARD and all(0 in one.streams for one in decoder.engine.backbones):
        raise InvalidArgumentError(
            'speculate="reward" drafts with a reward model that has weights of its own, and all of them run on the '
            'base\'s: pass "ngram", or a small causal LM'
        )
    if asked.name != MODEL:
        return request
    key = asked.draft if not isinstance(asked.draft, nn.Module) else id(asked.draft)
    if key not in decoder.drafts:
        decoder.drafts[key] = _plan(decoder, asked.draft)
    return replace(request, speculate=replace(asked, model=decoder.drafts[key]))


def _plan(decoder: Drafted, draft: Any) -> Plan:
    base, source = decoder.models[0], decoder.source
    tokenizer = None
    if not isinstance(draft, nn.Module):
        name = str(draft)
        tokenizer = load_tokenizer(name, source.trust_remote_code, source.hub)
        draft = load_model(name, source.of_rewards())
    model = make_model(MODEL, draft)
    if model.device != base.device:
        raise InvalidArgumentError(
            f"the draft model is on {model.device}, the base on {base.device}: move one with .to(device)"
        )
    check_vocabularies(base.vocab_size, model.vocab_size, decoder.tokenizer, tokenizer, MODEL)
    models: Sequence[CausalModel] = [model]
    return Plan(models, decoder.settings.engine != "hf", decoder.settings.attention, first=len(decoder.models))
