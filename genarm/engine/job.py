"""What the engine is given: one batch to decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..request.guidance import Guidance
from .state import State, new_state

# (generated so far [B, t], combined scores s [B, V]) -> edited scores [B, V]
Edit = Callable[[Tensor, Tensor], Tensor]
# generated so far [B, t] -> rows to stop, [B] bool
Halt = Callable[[Tensor], Tensor]
WIDTH_MULTIPLE = 512


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to decode: B rows, M streams. ``row_ids`` are the rows' numbers in the caller's batch."""

    prompts: list[list[Tensor]]  # [M][B], 1-D int64 each
    guidance: Guidance
    max_new_tokens: int
    pad_id: int
    row_ids: list[int]
    eos_ids: frozenset[int] = frozenset()
    stop: tuple[tuple[int, ...], ...] = ()
    return_logprobs: bool = False
    edit: Edit | None = None
    halt: Halt | None = None
    width: int | None = None  # columns of the token buffer, where more than max_new_tokens

    @property
    def batch(self) -> int:
        return len(self.prompts[0])

    @property
    def device(self) -> torch.device:
        return self.prompts[0][0].device

    @property
    def length(self) -> int:
        """Tokens a slot has to hold."""
        return slot_length(max(len(row) for rows in self.prompts for row in rows), self.max_new_tokens)

    @property
    def interrupts(self) -> bool:
        """Whether Python code of the caller runs in every step."""
        return self.edit is not None or self.halt is not None

    @torch.inference_mode(False)  # the caller's next step may be outside of the mode this one is in
    def state(self, vocab_size: int) -> State:
        """The buffers of its steps, as they are before the first one."""
        state = new_state(
            self.guidance,
            self.prompts[0],
            self.width or self.max_new_tokens,
            len(self.prompts),
            vocab_size,
            self.pad_id,
            self.eos_ids,
            self.stop,
            self.return_logprobs,
        )
        state.finish_from(len(self.row_ids))
        return state

    def padded(self, batch: int) -> Job:
        """The same with rows added that are copies of the first, up to ``batch``: idle slots of a captured step."""
        extra = batch - self.batch
        rows = torch.tensor([*range(self.batch), *[0] * extra], device=self.device)
        prompts = [[*stream, *[stream[0]] * extra] for stream in self.prompts]
        return replace(self, prompts=prompts, guidance=self.guidance.select(rows))

    def captured(self) -> Job:
        """The same in tensors whose sizes many jobs share, so that one captured step serves them all."""
        width = -(-self.max_new_tokens // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        return replace(self, guidance=self.guidance.in_tensors(), width=width)


def slot_length(longest_prompt: int, max_new_tokens: int) -> int:
    """Tokens of a prompt and what follows, that of a step launched before the last one was read included."""
    return longest_prompt + max_new_tokens + 1
