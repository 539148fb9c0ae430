"""What a run chooses for itself where it is not told: rate and epochs by the base and the pairs, the share held out.

Small bases want higher rates, about in proportion to one over their width, as for hidden weights under Adam (Yang et
al. 2022, "Tensor Programs V"); docs/training.md has what was measured. Few pairs make few steps, so they are seen
more than once; and of few, more are held out, or nothing could be said of what came out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import AutoConfig

from ..errors import LoadingError
from ..models.files import model_source
from ..models.loading import full_model
from .settings import FULL_LEARNING_RATE, LEARNING_RATES, TrainingSettings

# The width of the 7B models that GenARM's rates are of, and the most that a smaller one multiplies them by.
WIDTH = 4096
MOST = 16.0
# What configurations call it. Those of transformers answer to the first; code from the hub may not.
WIDTHS = ("hidden_size", "n_embd", "d_model", "model_dim", "dim")
STEPS, MOST_EPOCHS = 60, 3
HELD_OUT, LEAST_SHARE, MOST_SHARE = 100, 0.05, 0.15


def rate_for(settings: TrainingSettings, width: int) -> float:
    """The peak learning rate of a base of ``width`` hidden units, to two digits."""
    rate = LEARNING_RATES[settings.kind] if settings.rank else FULL_LEARNING_RATE
    return float(f"{rate * min(max(WIDTH / width, 1.0), MOST):.1e}")


def with_rate(settings: TrainingSettings) -> TrainingSettings:
    """The settings with a learning rate that fits the base.

    Raises:
        LoadingError: a base whose configuration cannot be read.
    """
    if settings.learning_rate is not None:
        return settings
    return replace(settings, learning_rate=rate_for(settings, width_of(settings)))


def width_of(settings: TrainingSettings) -> int:
    """Hidden units of the base.

    Raises:
        LoadingError: a configuration that cannot be read, or names none.
    """
    config = base_config(settings)
    width = next((found for name in WIDTHS if (found := getattr(config, name, None))), None)
    if not isinstance(width, int):
        raise LoadingError(
            f"{settings.base}: its config.json names no width of the model ({', '.join(WIDTHS)}), by which the "
            "learning rate is chosen: pass --learning-rate"
        )
    return width


def base_config(settings: TrainingSettings) -> Any:
    """The base's configuration, of its language model where it has other parts.

    Raises:
        LoadingError: a configuration that cannot be read.
    """
    try:
        source = model_source(full_model(settings.base))
        config = AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise LoadingError(
            f"{settings.base}: its config.json cannot be read ({error}): copy or save the model again"
        ) from None
    return config.get_text_config()


def share_held_out(settings: TrainingSettings, pairs: int) -> float:
    """The share of ``pairs`` pairs that is held out: 5%, or of fewer than 2,000 what makes 100, at most 15%."""
    if settings.eval_share is not None:
        return settings.eval_share
    return min(max(LEAST_SHARE, HELD_OUT / max(pairs, 1)), MOST_SHARE)


def epochs_for(settings: TrainingSettings, pairs: int) -> float:
    """Passes over ``pairs`` pairs: one, or of few pairs as many as make 60 steps, at most 3."""
    if settings.epochs is not None:
        return settings.epochs
    per_epoch = max(1, -(-pairs // settings.batch_size))
    return float(min(max(1, -(-STEPS // per_epoch)), MOST_EPOCHS))
