"""What a guided server is told once, and what each request may say. Imports neither vLLM nor torch.

The settings travel in the model's own configuration (vLLM's ``hf_overrides``), so that every process of an engine has
them. A request's numbers travel in ``SamplingParams.extra_args``, which HTTP requests fill as ``vllm_xargs``:

    weights.NAME   the weight of a reward model; where a request names one, those it does not name have 0
    beta           what its reward weights are divided by
    base_weight    the base model's own weight
    model_logprobs whether the response has every model's log-probability of each token (model_logprobs.py)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from ..errors import InvalidArgumentError

ARCHITECTURE = "GenARMForCausalLM"
KEY = "genarm"
WEIGHT = "weights."
ASK = "model_logprobs"
# What vLLM itself reads from a request's extra_args.
OF_VLLM = frozenset({"kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode", "session_id"})
LARGEST = 1e6  # of a weight over beta: beyond it float32 scores of likely tokens lose their differences
MOST_REWARDS = 7


@dataclass(frozen=True, slots=True)
class ServedReward:
    """A reward model of a server: a full model or a LoRA adapter, and the weight of requests that name none.

    ``base`` is the model that an adapter goes on where that is not the server's base.
    """

    name: str
    path: str
    weight: float = 1.0
    base: str | None = None


@dataclass(frozen=True, slots=True)
class ServedGuidance:
    """The reward models of a server and what a request without numbers of its own is decoded with."""

    rewards: tuple[ServedReward, ...]
    beta: float = 1.0
    base_weight: float = 1.0

    def __post_init__(self) -> None:
        names = [reward.name for reward in self.rewards]
        if not 0 < len(names) <= MOST_REWARDS:
            raise InvalidArgumentError(f"{len(names)} reward models were given: a guided server has 1 to 7")
        for name in names:
            if not name or name == "base" or names.count(name) > 1:
                raise InvalidArgumentError(
                    f"a reward model is named {name!r}: use names of their own other than 'base', none of them empty"
                )
        self.row(None)  # the defaults are numbers that a request could send

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ServedGuidance:
        """The settings as ``hf_overrides`` hold them."""
        try:
            rewards = tuple(ServedReward(**reward) for reward in told["rewards"])
            return cls(rewards, told.get("beta", 1.0), told.get("base_weight", 1.0))
        except (KeyError, TypeError) as error:
            raise InvalidArgumentError(
                f"the settings under {KEY!r} in hf_overrides cannot be read ({error}): make them with "
                "genarm.serving.settings.hf_overrides"
            ) from None

    @property
    def names(self) -> list[str]:
        return [reward.name for reward in self.rewards]

    def row(self, said: Mapping[str, Any] | None) -> list[float]:
        """A request's weights, the base's first, each reward model's divided by beta.

        Raises:
            InvalidArgumentError: a name that is not known, a value that is no finite number, a beta of 0 or less.
        """
        said = said or {}
        own = {key.removeprefix(WEIGHT): value for key, value in said.items() if key.startswith(WEIGHT)}
        for key in said:
            if not (key.startswith(WEIGHT) or key in OF_VLLM or key in {"beta", "base_weight", ASK}):
                raise InvalidArgumentError(f"{key!r} is no setting of guided decoding{self._hint(key)}")
        for name in own:
            if name not in self.names:
                raise InvalidArgumentError(
                    f"{WEIGHT + name!r}: no reward model has this name; there are {', '.join(self.names)}"
                )
        beta = _number("beta", said.get("beta", self.beta))
        if beta <= 0:
            raise InvalidArgumentError(f"beta is {beta}: reward weights are divided by it, so it is above 0")
        defaults = {} if own else {reward.name: reward.weight for reward in self.rewards}
        weights = {**dict.fromkeys(self.names, 0.0), **defaults, **own}
        row = [_number("base_weight", said.get("base_weight", self.base_weight))]
        row += [_number(WEIGHT + name, weight) / beta for name, weight in weights.items()]
        for name, weight in zip(["base_weight", *(WEIGHT + name for name in self.names)], row, strict=True):
            if not abs(weight) <= LARGEST:
                raise InvalidArgumentError(f"{name} over beta is {weight:g}: at most {LARGEST:g} keeps float32 exact")
        if not any(row):
            raise InvalidArgumentError("every weight is 0, which leaves nothing to draw from: give one model a weight")
        return row

    def _hint(self, key: str) -> str:
        known = [*(WEIGHT + name for name in self.names), "beta", "base_weight", ASK]
        near = get_close_matches(key, known, 1) or [one for one in known if one == WEIGHT + key]
        return f": did you mean {near[0]!r}?" if near else f": use {', '.join(known)}"


def asks(said: Mapping[str, Any] | None) -> bool:
    """Whether a request asks for every model's log-probability of each token.

    Raises:
        InvalidArgumentError: it says something else than true or false.
    """
    value = (said or {}).get(ASK, False)
    if isinstance(value, Mapping):  # which HTTP requests cannot say: they were asked before (model_logprobs.raised)
        return True
    if value not in (True, False):
        raise InvalidArgumentError(f"{ASK} is {value!r}: use true or false")
    return bool(value)


def hf_overrides(guidance: ServedGuidance) -> dict[str, Any]:
    """What makes vLLM run a base model guided: ``LLM(base, hf_overrides=hf_overrides(guidance))``."""
    return {"architectures": [ARCHITECTURE], KEY: asdict(guidance)}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgumentError(f"{name} is {value!r}: use a finite number")
    return float(value)
