"""What a caller of Hugging Face's ``generate`` brings to each step: LogitsProcessors, StoppingCriteria, and the wish to
see the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    ClassifierFreeGuidanceLogitsProcessor,
    EosTokenCriteria,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerationConfig,
    LogitNormalization,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinPLogitsWarper,
    StoppingCriteriaList,
    SynthIDTextWatermarkLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from .errors import UnsupportedGenerationError

# Warpers the sampler has itself, in the one order in which it applies them: class -> (our keyword, its attribute).
NATIVE: tuple[tuple[type, str, str], ...] = (
    (TemperatureLogitsWarper, "temperature", "temperature"),
    (TopKLogitsWarper, "top_k", "top_k"),
    (TopPLogitsWarper, "top_p", "top_p"),
    (MinPLogitsWarper, "min_p", "min_p"),
)
# What puts scores of its own in the place of the models', whose scale particles are weighed by, or keeps rows' texts.
UNWEIGHED = (
    ClassifierFreeGuidanceLogitsProcessor,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitNormalization,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


@dataclass(slots=True)
class Record:
    """The caller's processors and criteria, and the scores they asked to see. ``columns`` [B, T] are the prompts.
    ``rows_move``: rows are particles, which go on as others, so that a place says nothing of a text."""

    columns: Tensor
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    output_scores: bool
    output_logits: bool
    kept_scores: list[Tensor] = field(default_factory=list)
    kept_logits: list[Tensor] = field(default_factory=list)
    stopped: Tensor | None = None  # [B] bool
    ends_rows: bool = False  # whether an EOS is among the criteria
    rows_move: bool = False

    def take_endings(self, config: GenerationConfig) -> tuple[int, list[int]]:
        """Move the criteria that decoding has itself out of ``criteria`` -> the longest row and the ids that end one.

        ``generate`` always brings these two, the caller's in place of its own; where no others are left, no code runs
        between steps, and each can be one CUDA graph.
        """
        lengths = [int(one.max_length) for one in self.criteria if type(one) is MaxLengthCriteria]
        ends = [one.eos_token_id for one in self.criteria if type(one) is EosTokenCriteria]
        if not self.criteria and config.eos_token_id is not None:
            ends = [torch.as_tensor(config.eos_token_id)]
        self.ends_rows = any(hasattr(criterion, "eos_token_id") for criterion in self.criteria)
        left = [one for one in self.criteria if type(one) not in (MaxLengthCriteria, EosTokenCriteria)]
        self.criteria = StoppingCriteriaList(left)
        return min(lengths, default=int(config.max_length)), [end for ids in ends for end in ids.flatten().tolist()]

    def take_native(self, do_sample: bool) -> dict[str, Any]:
        """Move the warpers the sampler has itself out of ``processors``; what remains runs eagerly, step by step."""
        if not do_sample:
            return {"temperature": 0.0}
        if self.output_scores:  # the caller wants to see the warped scores
            return {}
        start = len(self.processors)
        order = len(NATIVE)
        while start > 0 and (place := _native_place(self.processors[start - 1])) is not None and place < order:
            start, order = start - 1, place
        native = [(_native_place(processor), processor) for processor in self.processors[start:]]
        self.processors = LogitsProcessorList(self.processors[:start])
        return {NATIVE[i][1]: getattr(p, NATIVE[i][2]) for i, p in native if i is not None}

    def check_weighed(self) -> None:
        """Of the processors that are left to run, none may take the models' scale off the scores.

        Raises:
            UnsupportedGenerationError: one does.
        """
        for place, processor in enumerate(self.processors):
            if isinstance(processor, UNWEIGHED):
                raise UnsupportedGenerationError(
                    f"{type(processor).__name__} was asked for with particles, which are weighed by the models' "
                    "scores, and it gives others, or knows texts by their places: leave one of the two out"
                )
            if isinstance(processor, TemperatureLogitsWarper) and processor.temperature != 1.0:
                after = next((type(one).__name__ for one in self.processors[place + 1 :][::-1]), "nothing")
                raise UnsupportedGenerationError(
                    f"temperature acts before {after}, and particles are weighed by scores that the sampler divides "
                    "itself: leave one of the two out, or particles"
                )

    def edit_or_none(self) -> Any:
        return self.edit if self.processors or self.output_scores or self.output_logits else None

    def halt_or_none(self) -> Any:
        return self.halt if self.criteria else None

    def edit(self, generated: Tensor, scores: Tensor) -> Tensor:
        """Combined scores [B, V] -> the processors' scores [B, V]."""
        if self.output_logits:
            self.kept_logits.append(scores.clone())
        sequences = cast(Any, torch.cat([self.columns, generated], dim=1))
        edited: Tensor = self.processors(sequences, cast(Any, scores))
        if self.output_scores:
            self.kept_scores.append(edited.clone())
        return edited

    def halt(self, generated: Tensor) -> Tensor:
        """Which rows stop, [B] bool. Without an EOS among the criteria transformers pads nothing: rows go on until all
        have stopped."""
        stopped: Tensor = self.criteria(torch.cat([self.columns, generated], dim=1), self.scores())
        if self.rows_move:  # what has stopped moves with its text, which the loop sees to
            return stopped
        self.stopped = stopped if self.stopped is None else self.stopped | stopped
        return self.stopped if self.ends_rows else self.stopped.all().expand_as(stopped)

    def scores(self) -> tuple[Tensor, ...] | None:
        return tuple(self.kept_scores) if self.output_scores else None

    def logits(self) -> tuple[Tensor, ...] | None:
        return tuple(self.kept_logits) if self.output_logits else None


def _native_place(processor: Any) -> int | None:
    """Where in NATIVE a processor stands, None for any other, or one with settings the sampler does not have."""
    plain = getattr(processor, "filter_value", -math.inf) == -math.inf
    if not plain or getattr(processor, "min_tokens_to_keep", 1) != 1:
        return None
    return next((place for place, entry in enumerate(NATIVE) if type(processor) is entry[0]), None)
