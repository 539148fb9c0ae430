"""Which base each LoRA reward model goes on: the one given where it fits, unless the caller chooses another.

An adapter's configuration names the base it was trained on, by a path that may have moved or been trained further, so
the name decides nothing where the shapes leave a choice: PEFT puts an adapter on the model that its caller passes, and
so does this. Where the two differ a warning names both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import GenARMError, InvalidArgumentError, LoadingError, UnsupportedAdapterError
from .adapters import LoraAdapter
from .causal import inner_model
from .files import ADAPTER_FILES
from .loading import load_model
from .options import Source
from .preference_adapters import PreferenceAdapter

# {reward model: "base", "own", a path or hub id, a loaded model}
RewardBases = Mapping[str, str | Path | nn.Module] | None
THE_BASE = "the base"
# What goes on a base; both fit themselves to one.
Adapter = LoraAdapter | PreferenceAdapter


def check_choices(reward_bases: RewardBases, rewards: Mapping[str, Any]) -> Mapping[str, str | Path | nn.Module]:
    """Raise InvalidArgumentError unless each choice is one, for an adapter among the reward models."""
    for name, choice in (reward_bases or {}).items():
        if name not in rewards:
            raise InvalidArgumentError(
                f"reward_bases names {name!r}, which is no reward model: there are {', '.join(rewards) or 'none'}"
            )
        if not choice or not isinstance(choice, str | Path | nn.Module):
            raise InvalidArgumentError(
                f"reward_bases[{name!r}] is {choice!r}: pass 'base', 'own', a path, a hub id or a loaded model"
            )
        if isinstance(rewards[name], nn.Module):
            raise InvalidArgumentError(
                f"reward_bases names {name!r}, a loaded model, which has its weights: leave it out, or pass an adapter"
            )
    return reward_bases or {}


def own_base(recorded: str | None, base_name: str | None) -> str | None:
    """The local folder of another base than ``base_name`` that an adapter was trained on, if that is what it names."""
    if not recorded or not any((Path(recorded) / file).is_file() for file in ("config.json", ADAPTER_FILES[0])):
        return None
    same = base_name is not None and Path(base_name).exists() and Path(recorded).samefile(base_name)
    return None if same else recorded


def differs(recorded: str | None, base_name: str | None) -> bool:
    """Whether the base that an adapter names is, for all that names tell, another than ``base_name``."""
    if own_base(recorded, base_name) is not None:
        return True
    return bool(recorded and base_name) and Path(str(recorded)).name != Path(str(base_name)).name


def named_base(choice: str, path: str, recorded: str | None, base_name: str) -> str:
    """The model that a choice means for the adapter in ``path``, which names ``recorded`` as its base."""
    if choice == "own" and not recorded:
        raise LoadingError(
            f"{path}: its own base is asked for, and its adapter_config.json names none: pass that base's path"
        )
    return {"own": str(recorded), "base": base_name}.get(choice, choice)


def warn_of_another(name: str, recorded: str | None, base_name: str | None) -> None:
    """Where an adapter goes on another base than it names, a warning names both."""
    if differs(recorded, base_name):
        warnings.warn(
            f"reward model {name!r} was trained on {recorded}, and runs on {base_name or 'the base given'}: where that "
            f"is wrong, give it its own base (reward_bases={{{name!r}: 'own'}}, --reward-base {name}=own); where it is "
            f"right, say so ({name}=base)",
            stacklevel=7,
        )


def own_base_of(adapter: Adapter, base_name: str | None, misfit: UnsupportedAdapterError) -> str:
    """The base that an adapter names which does not fit ``base_name``; raises ``misfit`` where it names no other."""
    if not adapter.base_name or (base_name is not None and _is_one(adapter.base_name, base_name)):
        raise misfit
    return adapter.base_name


def warn_of_own(name: str, recorded: str, base_name: str | None) -> None:
    """Say that an adapter runs on the base it names, because it does not fit the one given."""
    given = base_name or "the base given"
    warnings.warn(f"reward model {name!r} does not fit {given}, and runs on its own base, {recorded}", stacklevel=7)


class Bases:
    """The base given, and the others that adapters brought along, each loaded once."""

    def __init__(self, base: nn.Module, name: str | None, source: Source, choices: Mapping[str, Any]) -> None:
        self.base, self.name, self.source = base, name, source
        self._choices = choices
        self._others: dict[str, nn.Module] = {}

    def put(self, name: str, adapter: Adapter) -> tuple[Adapter, nn.Module, str]:
        """Reward model ``name``'s adapter -> the same fitted to a base, that base, and what to call it."""
        choice = self._choices.get(name)
        if choice is None:
            return self._fitting(name, adapter)
        if choice == "own":
            choice = named_base("own", adapter.path, adapter.base_name, "base")
        module = self._module(choice)
        place = type(choice).__name__ if isinstance(choice, nn.Module) else str(choice)
        return adapter.fit(inner_model(module)), module, THE_BASE if module is self.base else place

    def _fitting(self, name: str, adapter: Adapter) -> tuple[Adapter, nn.Module, str]:
        """On the base given where it fits that, else on its own."""
        try:
            fitted: Adapter = adapter.fit(inner_model(self.base))
        except UnsupportedAdapterError as misfit:
            recorded = own_base_of(adapter, self.name, misfit)
            module = self._own(recorded, misfit)
            fitted = adapter.fit(inner_model(module))
            warn_of_own(name, recorded, self.name)
            return fitted, module, recorded
        warn_of_another(name, adapter.base_name, self.name)
        return fitted, self.base, THE_BASE

    def _own(self, recorded: str, misfit: UnsupportedAdapterError) -> nn.Module:
        try:
            return self._module(recorded)
        except GenARMError:
            if Path(recorded).exists():
                raise
            raise misfit from None  # a name that leads nowhere: the shapes are what is wrong

    def _module(self, choice: str | Path | nn.Module) -> nn.Module:
        if isinstance(choice, nn.Module):
            return choice
        place = str(choice)
        if place == "base" or (self.name is not None and _is_one(place, self.name)):
            return self.base
        if place not in self._others:
            self._others[place] = load_model(place, self.source)
        return self._others[place]


def _is_one(place: str, name: str) -> bool:
    """Whether two names are one model's: one folder, or one hub id."""
    if Path(place).exists() and Path(name).exists():
        return Path(place).samefile(name)
    return place == name
