"""LoRA adapters in PEFT's format, applied to a model's linear layers without changing the model.

y = W x + s · B (A x), with s = alpha / r (alpha / √r with rsLoRA); s is folded into B when the adapter is read.
Source: Hu et al. 2021 (LoRA), Kalajdzievski 2023 (rsLoRA).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.modeling import align_module_device
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from ..errors import LoadingError, UnsupportedAdapterError
from .activation import AT_LAST, Activation, AwakePlaces, read_activation
from .adapter_names import known_as, renamed
from .files import read_json, read_safetensors
from .placement import adapter_dtype, execution_device

# Settings of PEFT's LoraConfig that change the forward pass in ways y = Wx + sBAx does not cover.
UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save (fully trained modules)",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "layer_replication",
    "use_qalora": "QALoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "use_bdlora": "block-diagonal LoRA",
    "monteclora_config": "MonteCLoRA",
}
# Initialisations that also change the base weights, so the adapter alone does not say what the model was.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
FEATURES = ("in_features", "out_features")  # GPTQ's layers write them without the underscore
CURE = "merge it into its model (peft's merge_and_unload, then save_pretrained) and pass the full model"


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """One adapter: module name -> (A [r, in], B [out, r] with the scaling folded in, bias [out] or None).

    ``frozen`` holds the copies of the base's own weights that PEFT saves beside an adapter on the head, by parameter
    name; ``targets`` are the modules the configuration names, None where it also leaves some of those out.
    ``activation``: from where on it is awake; None for an ordinary one, which always is.
    """

    path: str
    base_name: str | None
    layers: dict[str, tuple[Tensor, Tensor, Tensor | None]]
    frozen: dict[str, Tensor] = field(default_factory=dict)
    targets: str | list[str] | None = None
    activation: Activation | None = None

    def fit(self, model: nn.Module) -> LoraAdapter:
        """The adapter on ``model``'s device and dtypes, each layer checked against the layer it goes on."""
        own = renamed(self.layers, model)
        if own != {name: name for name in self.layers}:
            layers = {own[name]: layer for name, layer in self.layers.items()}
            return replace(self, layers=layers).fit(model)
        self._check_targets(model)
        self._check_frozen(model)
        fitted, begins = {}, execution_device(model)
        for name, (down, up, bias) in self.layers.items():
            layer = self._layer(model, name)
            wanted = _features(layer)
            if (down.shape[1], up.shape[0]) != wanted:
                raise UnsupportedAdapterError(
                    f"{self.path}: {name} maps {down.shape[1]} -> {up.shape[0]} features, the model's {wanted[0]} -> "
                    f"{wanted[1]}: this adapter was made for another architecture; load it on its own base"
                )
            device, dtype = execution_device(layer), adapter_dtype(layer)
            device = begins if device.type == "meta" else device  # torch's own quantised layers hold no tensor
            fitted[name] = (
                down.to(device, dtype),
                up.to(device, dtype),
                None if bias is None else bias.to(device, dtype),
            )
        return LoraAdapter(self.path, self.base_name, fitted, activation=self.activation)

    def _check_targets(self, model: nn.Module) -> None:
        """Half an adapter would guide without a word, so every module it targets must have its weights."""
        lacking = [name for name, _ in model.named_modules() if self.is_target(name) and name not in self.layers]
        if lacking:
            there = {name for name, _ in model.named_modules()}
            strange = next((name for name in self.layers if name not in there), None)
            others = f", and has some for {strange}, which there is not" if strange else ""
            raise UnsupportedAdapterError(
                f"{self.path}: it targets {len(lacking)} modules it has no weights for ({lacking[0]}, …){others}: it "
                "is incomplete or was made for another architecture; save it again or load it on its own base"
            )

    def is_target(self, name: str) -> bool:
        if self.targets is None or ".base_layer" in name or ".lora_" in name:
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, name) is not None
        return any(name == target or name.endswith(f".{target}") for target in self.targets)

    def _check_frozen(self, model: nn.Module) -> None:
        for name, tensor in self.frozen.items():
            if not _is_own(model, known_as(name, model), tensor):
                raise UnsupportedAdapterError(
                    f"{self.path}: it brings a {name} of its own, which is not applied in place: {CURE}"
                )

    def hooks(self, model: nn.Module, places: AwakePlaces | None = None) -> list[tuple[nn.Module, Any]]:
        """``model``'s layers and the forward hooks that put the adapter on them, where ``places`` says that it is
        awake. The head is asked of tokens where it is, and of some of them alone."""
        head = getattr(model, "get_output_embeddings", lambda: None)()
        layers = [(model.get_submodule(name), layer) for name, layer in self.layers.items()]
        return [
            (part, _hook(*layer, AwakePlaces() if places is None or part is head else places)) for part, layer in layers
        ]

    def _layer(self, model: nn.Module, name: str) -> nn.Module:
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            raise UnsupportedAdapterError(
                f"{self.path}: the model ({type(model).__name__}) has no module {name!r}: this adapter was made for "
                "another architecture; load it on its own base"
            ) from None
        if isinstance(layer, nn.Embedding):
            raise UnsupportedAdapterError(
                f"{self.path}: {name} is an embedding, and LoRA on embeddings is not read: {CURE}"
            )
        if _features(layer) == (0, 0):
            raise UnsupportedAdapterError(
                f"{self.path}: {name} is a {type(layer).__name__}, not a linear layer: {CURE}"
            )
        return layer


def _is_own(model: nn.Module, name: str, saved: Tensor) -> bool:
    """Whether ``saved`` is the model's own tensor of that name, wherever it lies."""
    path, _, leaf = name.rpartition(".")
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        return False
    layer = getattr(layer, "base_layer", layer)
    with align_module_device(layer):
        own = getattr(layer, leaf, None)
        return isinstance(own, Tensor) and _same(own, saved)


def _same(own: Tensor, saved: Tensor) -> bool:
    """Whether two tensors are equal in the coarser of their dtypes."""
    saved = saved.to(own.device)
    return own.shape == saved.shape and (
        torch.equal(own, saved.to(own.dtype)) or torch.equal(own.to(saved.dtype), saved)
    )


def _hook(down: Tensor, up: Tensor, bias: Tensor | None, places: AwakePlaces) -> Any:
    def add(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = places.on(F.linear(F.linear(args[0].to(down.device, down.dtype), down), up, bias))
        return output + added.to(output.device, output.dtype)

    return add


def _features(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Conv1D):  # GPT-2's linear layer, stored transposed
        return layer.nx, layer.nf
    inner = getattr(layer, "base_layer", layer)
    width, height = (getattr(inner, name, getattr(inner, name.replace("_", ""), 0)) for name in FEATURES)
    return int(width), int(height)


def read_adapter(folder: Path) -> LoraAdapter:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors``; refuse what is not plain LoRA, saying why."""
    config = read_json(folder / "adapter_config.json")
    _check_config(folder, config)
    state = read_safetensors(folder / "adapter_model.safetensors")
    layers: dict[str, dict[str, Tensor]] = {}
    frozen: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if "lora_" not in key:
            frozen[key.removeprefix("base_model.model.").replace(".base_layer", "")] = tensor
            continue
        name, part = _split_key(folder, key)
        layers.setdefault(name, {})[part] = tensor
    if not layers:
        raise LoadingError(f"{folder}: adapter_model.safetensors holds no LoRA weights: save the adapter again")
    return LoraAdapter(
        path=str(folder),
        base_name=config.get("base_model_name_or_path") or None,
        layers={name: _read_layer(folder, name, parts, config) for name, parts in layers.items()},
        frozen=frozen,
        targets=adapter_targets(config),
        activation=read_activation(folder, config),
    )


def adapter_targets(config: Mapping[str, Any]) -> str | list[str] | None:
    """The modules that a configuration names, None where it also leaves some of those out."""
    targets = config.get("target_modules")
    narrowed = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    return None if narrowed or targets == "all-linear" else targets


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind == "PBLORA":
        raise UnsupportedAdapterError(
            f"{folder}: an adapter conditioned on preferences (PARM) is another model for each of them, and none is "
            "chosen here: use it as a reward model, or fold it for one preference (genarm.PreferenceAdapter)"
        )
    if kind != "LORA":
        raise UnsupportedAdapterError(f"{folder}: a {kind} adapter; only LoRA is applied in place: {CURE}")
    check_task(folder, config)
    for key, name in UNSUPPORTED.items():
        if config.get(key):
            raise UnsupportedAdapterError(f"{folder}: the adapter uses {name}, which is not applied in place: {CURE}")
    _warn_of_unknown(folder, config)
    try:
        float(config.get("lora_alpha", 8))
        for alpha in (config.get("alpha_pattern") or {}).values():
            float(alpha)
        for pattern in [*(config.get("alpha_pattern") or {}), config.get("target_modules")]:
            re.compile(pattern if isinstance(pattern, str) else "")
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise LoadingError(f"{folder}: adapter_config.json is damaged ({error}): save the adapter again") from None
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise UnsupportedAdapterError(f"{folder}: {start} initialisation changes the base's own weights: {CURE}")


def _warn_of_unknown(folder: Path, config: Mapping[str, Any]) -> None:
    """A later PEFT's setting may change what the adapter computes; PEFT warns of it and goes on."""
    known = {AT_LAST, *(one.name for one in fields(LoraConfig))}
    unknown = sorted(name for name, value in config.items() if value and name not in known)
    if unknown:
        warnings.warn(
            f"{folder}: adapter_config.json holds settings that this version of peft does not know and that are not "
            f"applied ({', '.join(unknown)}): if the adapter was made by a later one, update peft and merge it",
            stacklevel=4,
        )


def check_task(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that makes something else of its model than a causal LM."""
    task = str(config.get("task_type") or "CAUSAL_LM")
    if task != "CAUSAL_LM":
        scorer = " (a trajectory RM, a scorer of whole responses)" if task == "SEQ_CLS" else ""
        raise UnsupportedAdapterError(
            f"{folder}: made for task {task}{scorer}: an autoregressive reward model is a CAUSAL_LM adapter"
        )


def _split_key(folder: Path, key: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(lora_A|lora_B)(?:\.\w+)?\.(weight|bias)", key)
    if match is None:
        what = "LoRA on embeddings" if "lora_embedding" in key else "more than plain LoRA"
        raise UnsupportedAdapterError(f"{folder}: {key} is {what}, which is not applied in place: {CURE}")
    return match[1], match[2] if match[3] == "weight" else match[2] + ".bias"


def _read_layer(
    folder: Path, name: str, parts: dict[str, Tensor], config: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None]:
    down, up = parts.get("lora_A"), parts.get("lora_B")
    if down is None or up is None or down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise LoadingError(f"{folder}: {name} lacks a matching pair of lora_A and lora_B: save the adapter again")
    for tensor in parts.values():
        if not bool(torch.isfinite(tensor).all()):
            raise LoadingError(
                f"{folder}: {name} holds NaN or infinite weights: the file is damaged or training diverged"
            )
    alpha = float(_by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8)))
    rank = down.shape[0]
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    bias = parts.get("lora_B.bias")
    return down, up * scaling, None if bias is None else bias * scaling


def _by_pattern(pattern: Mapping[str, float] | None, name: str, default: float) -> float:
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default
