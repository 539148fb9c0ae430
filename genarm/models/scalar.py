"""Trajectory RMs and value heads: a transformer that says one number of every text it has read.

A sequence classifier of one label is a causal language model whose head has one row: put together as such, it runs on
the engine's sessions, with a key-value cache, on the fused decoder where its family does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from ..errors import InvalidArgumentError, LoadingError, UnsupportedModelError
from .activation import read_activation, refuse_activated
from .backbone import Backbone
from .causal import CausalModel, inner_model, make_model, refuse_activated_layers
from .files import HubOptions, adapter_folder, is_adapter, read_json, read_safetensors
from .loading import load_scorer, load_tokenizer
from .options import Source
from .plan import Plan
from .reward_bases import named_base, own_base, warn_of_another
from .vocabulary import check_vocabularies

HEADS = ("score", "classifier")


@dataclass(frozen=True, slots=True)
class ScalarModel:
    """A model of one number per text: its logits are [R, 1], the number after each token.

    ``silent``: the id at the end of a text before which a trajectory RM was trained to be read, if there is one.
    """

    model: CausalModel
    plan: Plan
    silent: int | None = None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def models(self) -> Sequence[CausalModel]:
        return [self.model]

    @property
    def backbones(self) -> Sequence[Backbone]:
        return self.plan.backbones


def scalar_model(
    name: str,
    given: str | Path | nn.Module,
    source: Source,
    base_name: str | None,
    vocab_size: int,
    tokenizer: Any,
    fuse: bool = True,
) -> ScalarModel:
    """A trajectory RM or a value head, from a path (a whole classifier, or a LoRA adapter with its score), or loaded.

    Args:
        given: a folder or hub id, or a module: a transformers sequence classifier of one label, perhaps a PeftModel
            around one (its adapters are merged into a copy), or any causal LM whose head has one row.
        source: dtype and device; a loaded module stays where it is.
        base_name: the path of the decoder's base, on which an adapter goes whose own base is not there.
        vocab_size, tokenizer: the base's, which it must share.
        fuse: whether the fused decoder may run it.
    Raises:
        LoadingError, UnsupportedModelError, VocabularyMismatchError: it is not one, or not of this vocabulary.
    """
    if isinstance(given, nn.Module):
        module, beside, pad = given, None, None
        refuse_activated_layers(name, module)
        if isinstance(module, PeftModel):
            module = copy.deepcopy(module).merge_and_unload()
    else:
        scorer, place = load_trajectory_rm(name, str(given), source, base_name)
        module = scorer.merge_and_unload() if isinstance(scorer, PeftModel) else scorer
        beside = load_tokenizer(place, source.trust_remote_code, source.hub)
        pad = trained_padding(str(given), source.hub, beside)
    model = make_model(name, as_causal(name, module).eval())
    check_vocabularies(vocab_size, model.input_vocab_size, tokenizer, beside, name)
    if model.device != source.device:
        raise InvalidArgumentError(f"{name} is on {model.device}, the base on {source.device}: move one with .to()")
    runs_on = type(inner_model(module)).__name__ if isinstance(given, nn.Module) else str(given)
    found = replace(model, runs_on=runs_on)
    if isinstance(given, nn.Module):  # a head of one row is decoded as it is, and lives as long as its owner keeps it
        found = found.held_weakly([given])
    own = getattr(found.config, "pad_token_id", None)
    return ScalarModel(found, Plan([found], fuse=fuse), pad if own is None else own)


def trained_padding(path: str, hub: HubOptions, tokenizer: Any) -> int | None:
    """The padding of an adapter's training, which its base's configuration does not name: the tokenizer's, and the end
    of a sequence where that has none (as `genarm train` and TRL take it)."""
    if tokenizer is None or not is_adapter(path, hub):
        return None
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # type: ignore[no-any-return]


def as_causal(name: str, classifier: Any) -> nn.Module:
    """A causal LM of the classifier's own layers, whose head is its score.

    Raises:
        UnsupportedModelError: a module that gives more than one number, or of no family that transformers decodes.
    """
    heads = (getattr(classifier, one, None) for one in HEADS)
    head = next((one for one in heads if isinstance(one, nn.Linear)), None)
    if head is None:
        output = getattr(classifier, "get_output_embeddings", lambda: None)()
        if getattr(output, "out_features", None) == 1:
            module: nn.Module = classifier
            return module
        raise UnsupportedModelError(
            f"{name} is a {type(classifier).__name__}, which has no score: pass a sequence classifier of one label "
            "(genarm train trajectory-rm makes one)"
        )
    if head.out_features != 1:
        raise UnsupportedModelError(
            f"{name} has {head.out_features} labels, and a trajectory RM says one number: train it with num_labels=1"
        )
    config = copy.deepcopy(classifier.config)
    config.tie_word_embeddings = False
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if family is None:
        raise UnsupportedModelError(
            f"{name} ({type(classifier).__name__}) is no decoder: a trajectory RM reads from left to right"
        )
    with torch.device("meta"):
        shell: Any = family(config)
    setattr(shell, shell.base_model_prefix, getattr(classifier, classifier.base_model_prefix))
    shell.set_output_embeddings(head)
    return shell  # type: ignore[no-any-return]


def load_trajectory_rm(
    name: str, path: str, source: Source, base: str | None, chosen: str | None = None
) -> tuple[Any, str]:
    """A sequence classifier of one label, and the path of the model it is on: a full model, or an adapter with its
    score on its own base where that is there, else on ``base``. ``chosen``: which base, as `--reward-base` names it.

    Raises:
        LoadingError: an adapter without a score, or whose base is not to be had.
    """
    if not is_adapter(path, source.hub):
        return load_scorer(path, source), path
    folder = adapter_folder(path, source.hub)
    config, state = read_json(folder / "adapter_config.json"), read_safetensors(folder / "adapter_model.safetensors")
    refuse_activated(
        path,
        read_activation(folder, config),
        "a score is one of a whole text, prompt included",
        "train it as an ordinary adapter (genarm train without --activate)",
    )
    if not any(head in key.split(".") for key in state for head in HEADS):
        raise LoadingError(f"{path}: the adapter brings no score: it is no trajectory RM, or save it again")
    recorded = config.get("base_model_name_or_path")
    place = own_base(recorded, base) or base
    if chosen is not None:
        place = named_base(chosen, path, recorded, base or "")
    elif place is None:
        raise LoadingError(
            f"{path}: an adapter, and its base {recorded!r} is not there: merge it and pass the full model"
        )
    elif place != base:
        warnings.warn(
            f"{name} is scored on its own base, {place}, and not on {base}: choose with --reward-base "
            f"{name}=own or {name}=base",
            stacklevel=3,
        )
    else:
        warn_of_another(name, recorded, base)
    scorer: Any = load_scorer(place, source, new_score=True)
    return PeftModel.from_pretrained(scorer, folder).eval(), place
