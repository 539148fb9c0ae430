"""Names, paths and modules -> a base and its reward models, which of them share the base's weights, and tokenizers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import GenARMError, InvalidArgumentError, LoadingError, UnsupportedAdapterError, UnsupportedModelError
from .adapters import LoraAdapter, read_adapter
from .causal import CausalModel, inner_model, make_model
from .files import adapter_folder, is_adapter, model_source, read_json, refuse_pickled
from .vocabulary import check_vocabularies

RewardModel = str | Path | nn.Module | LoraAdapter
RewardModels = Mapping[str, RewardModel] | Sequence[RewardModel] | None
REPORTED = ("missing_keys", "unexpected_keys")
DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Source:
    """How models given by path are read."""

    dtype: torch.dtype
    device: torch.device
    trust_remote_code: bool = False


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that is there; "auto" is CUDA where available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidArgumentError(f"device is {device!r}: pass 'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if resolved.type not in {"cpu", "cuda"}:
        raise InvalidArgumentError(f"device is {device!r}: guided decoding runs on 'cpu' and 'cuda'")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError("device is 'cuda', but torch sees no CUDA device here: pass device='cpu' or 'auto'")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A floating dtype; "auto" is bfloat16 on CUDA and float32 on the CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or resolved not in DTYPES.values():
        raise InvalidArgumentError(f"dtype is {dtype!r}: pass 'auto', 'bfloat16', 'float16' or 'float32'")
    return resolved


def load_model(name: str | Path, source: Source) -> nn.Module:
    """A causal LM from a folder or the hub: safetensors only, complete, in ``source.dtype`` on ``source.device``."""
    return _load(AutoModelForCausalLM, name, source)


def load_scorer(name: str | Path, source: Source, new_score: bool = False) -> nn.Module:
    """A trajectory RM, a sequence classifier of one label, as `load_model` loads a causal LM.

    ``new_score``: the files are a causal LM's, and the score that takes its head's place is an adapter's to bring.
    """
    return _load(AutoModelForSequenceClassification, name, source, new_score, num_labels=1)


def _load(architecture: Any, name: str | Path, source: Source, new_score: bool = False, **settings: Any) -> nn.Module:
    folder = model_source(str(name))
    try:
        with _quiet():
            loaded: Any = architecture.from_pretrained(
                folder,
                dtype=source.dtype,
                use_safetensors=True,
                trust_remote_code=source.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **settings,
            )
    except SafetensorError as error:
        raise LoadingError(f"{name}: its weights are corrupt ({error}): copy or save them again") from None
    except Exception as error:  # a damaged configuration fails in any way it likes
        kind = "a causal language model" if architecture is AutoModelForCausalLM else "a scorer of sequences"
        raise _loading_error(name, error, kind) from error
    model, report = loaded
    if new_score:
        report = {kind: [key for key in keys if not _is_head(key)] for kind, keys in report.items() if kind in REPORTED}
    _check_report(name, report)
    moved: nn.Module = model.to(source.device).eval()
    return moved


def _is_head(key: str) -> bool:
    return key.partition(".")[0] in {"score", "classifier", "lm_head"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading report, a table: ``_check_report`` says the same in one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _check_report(name: str | Path, report: Mapping[str, Any]) -> None:
    mismatched = sorted(report.get("mismatched_keys", ()))
    if mismatched:
        key, found, wanted = mismatched[0]
        raise LoadingError(
            f"{name}: {len(mismatched)} weights do not fit its config.json ({key} is {list(found)}, not "
            f"{list(wanted)}): copy or save it again"
        )
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise LoadingError(
            f"{name}: {len(missing)} weights are missing from its files ({missing[0]}, …): it is incomplete "
            "or of another architecture; copy or save it again"
        )
    unused = sorted(report.get("unexpected_keys", ()))
    if unused:
        warnings.warn(f"{name}: {len(unused)} weights in its files are not used ({unused[0]}, …)", stacklevel=2)


def load_tokenizer(name: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside a model, or None where there is none."""
    try:
        return AutoTokenizer.from_pretrained(model_source(str(name)), trust_remote_code=trust_remote_code)
    except Exception:  # whatever it fails with, a model without a tokenizer is still a model
        return None


def name_rewards(reward_models: RewardModels) -> dict[str, RewardModel]:
    """Reward models by name; a list gets reward_0, reward_1, …"""
    if reward_models is None:
        return {}
    if isinstance(reward_models, str | Path | nn.Module | LoraAdapter):
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
        if model == "" or not isinstance(model, str | Path | nn.Module | LoraAdapter):
            what = "an empty path" if model == "" else f"a {type(model).__name__}"
            raise InvalidArgumentError(f"reward model {name!r} is {what}: pass a path, a hub id or a loaded model")
    if len(named) > 7:
        raise InvalidArgumentError(f"{len(named)} reward models were given: at most 7 fit one step beside the base")
    return named


def build_models(
    base: nn.Module, rewards: Mapping[str, RewardModel], tokenizer: Any, source: Source, base_name: str | None = None
) -> list[CausalModel]:
    """The base's model first, then each reward model's, in order; every mismatch is an error here."""
    wrapper = _shared_wrapper(base, rewards)
    models = [make_model("base", base, without=wrapper)]
    for name, reward in rewards.items():
        model, reward_tokenizer = _reward(name, reward, base, source, base_name, wrapper)
        if model.device != models[0].device:
            raise InvalidArgumentError(
                f"reward model {name!r} is on {model.device}, the base on {models[0].device}: move one with .to(device)"
            )
        check_vocabularies(models[0].vocab_size, model.vocab_size, tokenizer, reward_tokenizer, name)
        models.append(model)
    return models


def _reward(
    name: str,
    reward: RewardModel,
    base: nn.Module,
    source: Source,
    base_name: str | None,
    wrapper: nn.Module | None,
) -> tuple[CausalModel, Any]:
    """``wrapper`` is a PeftModel around the base, whose adapters are off in every stream that is the base's."""
    if isinstance(reward, LoraAdapter):
        return make_model(name, base, reward.fit(inner_model(base)), wrapper), None
    if isinstance(reward, nn.Module):
        if reward is base:
            return make_model(name, reward, without=wrapper), None
        # The plain model inside a PeftModel that is the base: a reference, which its adapters must not touch.
        inside = not hasattr(reward, "disable_adapter") and _shares_modules(reward, base)
        return make_model(name, reward, without=base if inside else None), None
    path = str(reward)
    if not is_adapter(path):
        _refuse_scorer(path)
        return make_model(name, load_model(path, source)), load_tokenizer(path, source.trust_remote_code)
    folder = adapter_folder(path)
    adapter = read_adapter(folder)
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer_config.json").is_file() else None
    own = own_base(adapter.base_name, base_name)
    if own is not None:
        module = load_model(own, source)
        return make_model(name, module, adapter.fit(module)), tokenizer or load_tokenizer(own)
    try:
        fitted = adapter.fit(inner_model(base))
    except UnsupportedAdapterError as error:
        if adapter.base_name is None or adapter.base_name == base_name or Path(adapter.base_name).is_absolute():
            raise
        return _adapter_elsewhere(name, adapter, source, error), tokenizer
    if adapter.base_name and base_name and Path(adapter.base_name).name != Path(base_name).name:
        warnings.warn(
            f"reward model {name!r} was trained on {adapter.base_name}, and is applied to {base_name}: if those "
            "weights differ, load its own base with peft and pass the PeftModel",
            stacklevel=4,
        )
    return make_model(name, base, fitted, wrapper), tokenizer


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


def own_base(recorded: str | None, base_name: str | None) -> str | None:
    """The local folder of another base than ``base_name`` that an adapter was trained on, if that is what it names."""
    if not recorded or not (Path(recorded) / "config.json").is_file():
        return None
    same = base_name is not None and Path(base_name).exists() and Path(recorded).samefile(base_name)
    return None if same else recorded


def _adapter_elsewhere(name: str, adapter: LoraAdapter, source: Source, misfit: GenARMError) -> CausalModel:
    """An adapter that does not fit the base, with the base it names on the hub."""
    try:
        module = load_model(str(adapter.base_name), source)
    except GenARMError:
        raise misfit from None
    return make_model(name, module, adapter.fit(module))


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


def _loading_error(name: str | Path, error: Exception, kind: str) -> LoadingError:
    text = shorten(str(error), 160, placeholder=" …") or type(error).__name__
    folder = Path(str(name)).expanduser()
    if not list(folder.glob("*.safetensors")):
        refuse_pickled(folder)
    if not folder.exists():
        return LoadingError(f"{name}: no such folder, and not to be had from the hub ({text}): check the path")
    return LoadingError(f"{name}: cannot be loaded as {kind} ({text}): copy or save it again")
