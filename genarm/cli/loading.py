"""Loads the models that a command line names, with a word on the terminal while it takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from ..decoder import GuidedDecoder
from ..errors import RunError
from ..models.preference_adapters import PreferenceAdapter
from ..models.sources import RewardChoice, parse_reward_bases
from .options import ModelOptions
from .preferences import parse_objectives


def load(options: ModelOptions, base: str, rewards: Sequence[RewardChoice]) -> GuidedDecoder:
    """A decoder of these models.

    Raises:
        GenARMError: they cannot be loaded, do not go together, or do not fit into memory.
    """
    objectives = parse_objectives(options.objectives, [reward.name for reward in rewards])
    reward_bases = parse_reward_bases(options.reward_bases, [reward.name for reward in rewards])
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with Console(stderr=True).status("loading the models"):
            return GuidedDecoder.from_pretrained(
                base,
                {
                    name: PreferenceAdapter.from_pretrained(path, objectives[name]) if name in objectives else path
                    for name, path in ((reward.name, reward.path) for reward in rewards)
                },
                dtype=options.dtype,
                device=options.device,
                max_batch_size=options.batch_size,
                max_length=options.max_length,
                trust_remote_code=options.trust_remote_code,
                reward_bases=reward_bases,
                check_vocabulary=options.check_vocabulary,
            )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(f"the models do not fit into memory ({error}): choose a smaller --dtype or model") from error
