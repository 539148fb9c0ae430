"""What happens to a pair that is longer than the model may read, and the count of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidArgumentError

SHORTEST = 8


@dataclass(slots=True)
class Truncation:
    """What a set of pairs lost to its max_length. ``pairs_dropped`` are those whose two responses came out equal."""

    prompts_cut: int = 0
    prompt_tokens_dropped: int = 0
    responses_cut: int = 0
    response_tokens_dropped: int = 0
    pairs_dropped: int = 0

    def summary(self) -> str:
        """One line for the reader of a run."""
        parts = []
        if self.prompts_cut:
            cut = _count(self.prompts_cut, "prompt")
            parts.append(f"{cut} lost {_count(self.prompt_tokens_dropped, 'token')} at the beginning")
        if self.responses_cut:
            cut = _count(self.responses_cut, "response")
            parts.append(f"{cut} lost {_count(self.response_tokens_dropped, 'token')} at the end")
        if self.pairs_dropped:
            parts.append(f"{_count(self.pairs_dropped, 'pair')} dropped because both responses are the same tokens")
        return "; ".join(parts) or "nothing was cut"

    def count(self, prompt_tokens: int, response_tokens: tuple[int, int]) -> None:
        """Take up what one pair lost: tokens of its prompt, and of each response."""
        self.prompts_cut += prompt_tokens > 0
        self.prompt_tokens_dropped += prompt_tokens
        self.responses_cut += sum(tokens > 0 for tokens in response_tokens)
        self.response_tokens_dropped += sum(response_tokens)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def check_max_length(max_length: int | None, start: int) -> None:
    """Raise unless half of ``max_length`` holds more than the ``start`` tokens that a prompt never loses."""
    least = max(SHORTEST, 2 * start + 2)
    if max_length is not None and max_length < least:
        raise InvalidArgumentError(
            f"max length {max_length} leaves no room for a prompt and a response: at least {least}"
        )


def lengths_within(max_length: int, prompt: int, responses: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many tokens of a prompt and of its two responses stay.

    The prompt gives way until the longer response fits, but not below half of ``max_length``; then the responses do.
    """
    kept = min(prompt, max(max_length - max(responses), max_length // 2))
    room = max_length - kept
    return kept, (min(responses[0], room), min(responses[1], room))
