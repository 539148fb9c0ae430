"""A base and its reward models: which module runs each, and on which base every adapter goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InvalidArgumentError, LoadingError, UnsupportedAdapterError, UnsupportedModelError
from .adapters import LoraAdapter, read_adapter
from .causal import CausalModel, inner_model, make_model
from .files import adapter_folder, is_adapter, read_json
from .loading import load_model, load_tokenizer
from .options import Source
from .preference_adapters import PreferenceAdapter, is_conditioned, read_preference_adapter
from .reward_bases import THE_BASE, Bases, RewardBases, check_choices, own_base
from .vocabulary import check_vocabularies

RewardModel = str | Path | nn.Module | LoraAdapter | PreferenceAdapter
RewardModels = Mapping[str, RewardModel] | Sequence[RewardModel] | None


def name_rewards(reward_models: RewardModels) -> dict[str, RewardModel]:
    """Reward models by name; a list gets reward_0, reward_1, …"""
    if reward_models is None:
        return {}
    if isinstance(reward_models, RewardModel):
        raise InvalidArgumentError("reward_models is a single model: pass {name: model} or a list of models")
    if not isinstance(reward_models, Iterable):
        raise InvalidArgumentError(
            f"reward_models is a {type(reward_models).__name__}: pass {{name: model}} or a list of models"
        )
    if isinstance(reward_models, Mapping):
        named = dict(reward_models)
    else:
        named = {f"reward_{index}": model for index, model in enumerate(reward_models)}
    for name, model in named.items():
        if not isinstance(name, str) or not name or name == "base":
            raise InvalidArgumentError(f"a reward model is named {name!r}: use a non-empty string other than 'base'")
        if model == "" or not isinstance(model, RewardModel):
            what = "an empty path" if model == "" else f"a {type(model).__name__}"
            raise InvalidArgumentError(f"reward model {name!r} is {what}: pass a path, a hub id or a loaded model")
    if len(named) > 7:
        raise InvalidArgumentError(f"{len(named)} reward models were given: at most 7 fit one step beside the base")
    return named


def build_models(
    base: nn.Module,
    rewards: Mapping[str, RewardModel],
    tokenizer: Any,
    source: Source,
    base_name: str | None = None,
    reward_bases: RewardBases = None,
    check_vocabulary: bool = True,
) -> list[CausalModel]:
    """The base's model first, then each reward model's, in order; every mismatch is an error here."""
    bases = Bases(base, base_name, source, check_choices(reward_bases, rewards))
    wrapper = _shared_wrapper(base, rewards)
    models = [replace(make_model("base", base, without=wrapper), runs_on=base_name or type(base).__name__)]
    for name, reward in rewards.items():
        model, reward_tokenizer = _reward(name, reward, bases, wrapper)
        if model.device != models[0].device:
            raise InvalidArgumentError(
                f"reward model {name!r} is on {model.device}, the base on {models[0].device}: move one with .to(device)"
            )
        if check_vocabulary:
            check_vocabularies(models[0].vocab_size, model.vocab_size, tokenizer, reward_tokenizer, name)
        models.append(model)
    return models


def held_weakly(models: Sequence[CausalModel], *given: object) -> list[CausalModel]:
    """The same models without a hold on those modules that the caller gave, and keeps."""
    modules = [one for one in given if isinstance(one, nn.Module)]
    return [model.held_weakly(modules) for model in models]


def _reward(name: str, reward: RewardModel, bases: Bases, wrapper: nn.Module | None) -> tuple[CausalModel, Any]:
    """``wrapper`` is a PeftModel around the base, whose adapters are off in every stream that is the base's."""
    base, source = bases.base, bases.source
    if isinstance(reward, LoraAdapter | PreferenceAdapter):
        fitted, module, place = bases.put(name, reward)
        model = make_model(name, module, fitted, wrapper if module is base else None)
        return replace(model, runs_on=place), None
    if isinstance(reward, nn.Module):
        if reward is base:
            return replace(make_model(name, reward, without=wrapper), runs_on=THE_BASE), None
        # The plain model inside a PeftModel that is the base: a reference, which its adapters must not touch.
        inside = not hasattr(reward, "disable_adapter") and _shares_modules(reward, base)
        on = THE_BASE if inside or reward is wrapper else type(inner_model(reward)).__name__
        return replace(make_model(name, reward, without=base if inside else None), runs_on=on), None
    path = str(reward)
    if not is_adapter(path, source.hub):
        _refuse_scorer(path)
        model = replace(make_model(name, load_model(path, source)), runs_on=path)
        return model, load_tokenizer(path, source.trust_remote_code, source.hub)
    folder = adapter_folder(path, source.hub)
    adapter = read_preference_adapter(folder) if is_conditioned(folder) else read_adapter(folder)
    fitted, module, place = bases.put(name, adapter)
    model = make_model(name, module, fitted, wrapper if module is base else None)
    beside = folder if (folder / "tokenizer_config.json").is_file() else own_base(adapter.base_name, bases.name)
    return replace(model, runs_on=place), None if beside is None else load_tokenizer(beside)


def _refuse_scorer(path: str) -> None:
    """A scorer with tied embeddings would load as a causal LM without complaint."""
    file = Path(path).expanduser() / "config.json"
    try:
        architectures = read_json(file).get("architectures")
    except LoadingError:  # loading says what is wrong with it
        return
    if any(str(name).endswith("ForSequenceClassification") for name in architectures or ()):
        raise UnsupportedModelError(
            f"{path}: a scorer of whole responses (a trajectory RM), and guidance needs a reward for every token: "
            "train an autoregressive reward model (genarm train arm)"
        )


def _shared_wrapper(base: nn.Module, rewards: Mapping[str, RewardModel]) -> nn.Module | None:
    """The reward model that is a PeftModel whose adapters were put into the base's own layers, if there is one."""
    found: list[nn.Module] = []
    for reward in rewards.values():
        if isinstance(reward, nn.Module) and _shares_modules(base, reward) and all(reward is not one for one in found):
            found.append(reward)
    if len(found) > 1:
        raise UnsupportedAdapterError(
            "two PeftModels wrap the base's own layers, where one adapter would stand in for the other: pass the "
            "adapters' paths instead"
        )
    return found[0] if found else None


def _shares_modules(base: nn.Module, reward: nn.Module) -> bool:
    return hasattr(reward, "disable_adapter") and inner_model(reward) is inner_model(base) and reward is not base
