"""Adapters that are conditioned on a preference over objectives (PBLORA), as PARM trains them.

    y = W x + s · (B₁ W₁ A₁ + B₂ W₂(p) A₂) x,   W₂(p) = Σ_k p_k W₂ₖ,   s = alpha / r₂

A = [A₁; A₂] is [r₁ + r₂, in], B = [B₁, B₂] is [out, r₁ + r₂], W₁ [r₁, r₁], each W₂ₖ [r₂, r₂]. For a given p that is a
LoRA of rank r₁ + r₂: A as it is, and s · [B₁ W₁, B₂ W₂(p)] as its B.
Source: Lin et al., "PARM: Multi-Objective Test-Time Alignment via Preference-Aware Autoregressive Reward Model", ICML
2025; both terms are scaled by alpha / r₂, as its code does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidArgumentError, LoadingError, UnsupportedAdapterError
from ..request.preferences import Objectives, Preference
from .activation import AT_LAST, TOKENS
from .adapter_names import renamed
from .adapters import LoraAdapter, adapter_targets, check_task
from .files import ADAPTER_FILES, adapter_folder, read_json, read_safetensors

KIND = "PBLORA"
PARTS = ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2")
MOST_FOLDS = 64
MERGED = "fold it for one preference (genarm.PreferenceAdapter.fold) and merge that"


@dataclass(frozen=True, slots=True)
class PreferenceLayer:
    """One layer's part: down [r₁ + r₂, in], up [out, r₁ + r₂], first W₁ [r₁, r₁], second W₂ [K, r₂, r₂]."""

    down: Tensor
    up: Tensor
    first: Tensor
    second: Tensor
    scale: float

    def fold(self, preference: Preference) -> Tensor:
        """The LoRA's B, [out, r₁ + r₂] in the dtype of ``down``, computed in float64."""
        r1 = len(self.first)
        shares = torch.tensor(preference, dtype=torch.float64, device=self.up.device)
        up, mixed = self.up.double(), torch.einsum("k,kij->ij", shares, self.second.double())
        folded = torch.cat([up[:, :r1] @ self.first.double(), up[:, r1:] @ mixed], dim=1)
        return (self.scale * folded).to(self.down.device, self.down.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceAdapter:
    """A PBLORA adapter: a reward model for ``GuidedDecoder``, one plain LoRA for each preference.

    ``objectives`` are named in the adapter's own order. `from_pretrained` reads one.
    """

    path: str
    base_name: str | None
    objectives: Objectives
    layers: dict[str, PreferenceLayer]
    targets: str | list[str] | None = None
    folds: dict[Preference, LoraAdapter] = field(default_factory=dict)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, objectives: Sequence[str] = (), preference: Mapping[str, float] | None = None
    ) -> PreferenceAdapter:
        """The adapter in a folder or of a hub id.

        objectives: what its preferences are over, in its order; needed where its adapter_config.json does not name
            them under "objectives". PARM's own checkpoints do not, and have harmless before helpful.
        preference: {objective: share}, for calls that give none.

        Raises:
            LoadingError: files that are missing or damaged, objectives that are not named.
            UnsafeWeightsError: pickled weights.
            UnsupportedAdapterError: an adapter of another kind.
            InvalidArgumentError: a preference that is none.
        """
        adapter = read_preference_adapter(adapter_folder(str(name)), tuple(objectives))
        if preference is None:
            return adapter
        default = adapter.objectives.read(f"the preference of {name}", preference)
        return replace(adapter, objectives=replace(adapter.objectives, default=default))

    def fold(self, preference: Preference) -> LoraAdapter:
        """The plain LoRA that it is for a preference, one number per objective in its order. Made once."""
        if preference not in self.folds:
            if len(preference) != len(self.objectives.names):
                raise InvalidArgumentError(
                    f"{self.path}: a preference of {len(preference)} numbers: its objectives are "
                    f"{', '.join(self.objectives.names)}"
                )
            layers: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {
                name: (one.down, one.fold(preference), None) for name, one in self.layers.items()
            }
            if len(self.folds) >= MOST_FOLDS:
                self.folds.pop(next(iter(self.folds)), None)
            self.folds[preference] = LoraAdapter(self.path, self.base_name, layers, targets=self.targets)
        return self.folds[preference]

    def fit(self, model: nn.Module) -> PreferenceAdapter:
        """The adapter on ``model``'s device, A in its layers' dtypes, each layer checked as a plain LoRA's is."""
        count = len(self.objectives.names)
        fitted = self.fold((1.0 / count,) * count).fit(model).layers
        own = renamed(self.layers, model)
        layers = {}
        for name, layer in self.layers.items():
            down = fitted[own[name]][0]
            up, first, second = (one.to(down.device) for one in (layer.up, layer.first, layer.second))
            layers[own[name]] = PreferenceLayer(down, up, first, second, layer.scale)
        return PreferenceAdapter(self.path, self.base_name, self.objectives, layers)


def is_conditioned(folder: Path) -> bool:
    """Whether an adapter's folder holds one of this kind."""
    return str(read_json(folder / ADAPTER_FILES[0]).get("peft_type", "")).upper() == KIND


def read_preference_adapter(folder: Path, objectives: Sequence[str] = ()) -> PreferenceAdapter:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors`` of a PBLORA adapter."""
    config = read_json(folder / ADAPTER_FILES[0])
    _check_config(folder, config)
    r1, r2, count = (_whole(folder, config, name) for name in ("r1", "r2", "obj_num"))
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_safetensors(folder / ADAPTER_FILES[1]).items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(pblora_(?:A|B|W1|W2))(?:\.\w+)?", key)
        if match is None:
            raise UnsupportedAdapterError(f"{folder}: {key} is more than a {KIND} adapter: {MERGED}")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise LoadingError(f"{folder}: adapter_model.safetensors holds no {KIND} weights: save the adapter again")
    scale = float(config.get("lora_alpha", 8)) / r2
    return PreferenceAdapter(
        path=str(folder),
        base_name=config.get("base_model_name_or_path") or None,
        objectives=_objectives(folder, config, tuple(objectives), count),
        layers={name: _layer(folder, name, own, (r1, r2, count), scale) for name, own in parts.items()},
        targets=adapter_targets(config),
    )


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != KIND:
        raise UnsupportedAdapterError(
            f"{folder}: a {kind or 'nameless'} adapter, which takes no preference: pass its path as a reward model"
        )
    check_task(folder, config)
    for name in ("modules_to_save", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", TOKENS, AT_LAST):
        if config.get(name):
            raise UnsupportedAdapterError(f"{folder}: a {KIND} adapter with {name}, which is not applied: {MERGED}")


def _whole(folder: Path, config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LoadingError(f"{folder}: adapter_config.json is damaged ({name} is {value!r}): save the adapter again")
    return value


def _objectives(folder: Path, config: Mapping[str, Any], given: tuple[str, ...], count: int) -> Objectives:
    named = tuple(str(name) for name in config.get("objectives") or ())
    if named and given and named != given:
        raise LoadingError(
            f"{folder}: its objectives are {', '.join(named)} in this order, and {', '.join(given)} were given: leave "
            "them out"
        )
    names = named or given
    if not names:
        raise LoadingError(
            f"{folder}: its adapter_config.json does not name its {count} objectives, and a preference means nothing "
            'without their order: write "objectives": ["harmless", "helpful"] there (the order of PARM\'s own '
            f"training), or pass genarm.PreferenceAdapter.from_pretrained({str(folder)!r}, objectives=[...]) "
            "(--objectives NAME=harmless,helpful)"
        )
    if len(names) != count or len(set(names)) != count:
        raise LoadingError(f"{folder}: it has {count} objectives, and {', '.join(names)} are named: name each once")
    numbers = config.get("pref_vec_init")
    if numbers is None:
        return Objectives(names)
    if not isinstance(numbers, list) or len(numbers) != count:
        raise LoadingError(f"{folder}: pref_vec_init is {numbers!r}: write {count} numbers or null")
    return Objectives(names, Objectives(names).checked(f"{folder}: pref_vec_init", numbers))


def _layer(
    folder: Path, name: str, parts: Mapping[str, Tensor], sizes: tuple[int, int, int], scale: float
) -> PreferenceLayer:
    r1, r2, count = sizes
    down, up, first, second = (parts.get(part) for part in PARTS)
    if down is None or up is None or first is None or second is None:
        lacking = ", ".join(part for part in PARTS if part not in parts)
        raise LoadingError(f"{folder}: {name} lacks {lacking}: save the adapter again")
    shapes = [list(one.shape) for one in (down[:, :0], up[:0], first, second)]
    if shapes != [[r1 + r2, 0], [0, r1 + r2], [r1, r1], [count, r2 * r2]]:
        raise LoadingError(
            f"{folder}: {name} has matrices of other sizes than r1 {r1}, r2 {r2} and {count} objectives make: save the "
            "adapter again"
        )
    for tensor in (down, up, first, second):
        if not bool(torch.isfinite(tensor).all()):
            raise LoadingError(
                f"{folder}: {name} holds NaN or infinite weights: the file is damaged or training diverged"
            )
    return PreferenceLayer(down, up, first, second.view(count, r2, r2), scale)
