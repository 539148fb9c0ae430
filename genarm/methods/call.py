"""One call of a method that does more than draw from the guided distribution: its rows while they are written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..engine.batch import all_failed, sequences
from ..engine.loop import numerical_error
from ..engine.reader import TextReader, reading
from ..engine.run import paths
from ..errors import GenARMError, InvalidArgumentError
from ..models.backbone import Backbone
from ..models.causal import CausalModel
from ..request.detokenize import RowText, text_before_stop
from ..request.inputs import PromptInput
from ..request.output import FinishReason, GenerationOutput, GenerationStats

# What every method takes of the options of ``GuidedDecoder.generate``.
TAKEN = (
    "max_new_tokens", "seed", "eos_token_id", "stop", "num_return_sequences", "logit_bias", "allowed_tokens",
)  # fmt: skip


class Readable(Protocol):
    """Models and the backbones that run them: a decoder's engine and its models, or a ScalarModel."""

    @property
    def models(self) -> Sequence[CausalModel]: ...
    @property
    def backbones(self) -> Sequence[Backbone]: ...
    @property
    def silent(self) -> int | None: ...


@dataclass(slots=True)
class MethodRow:
    """One answer on its way. ``random`` is its own, whatever rows there are beside it; ``score`` is what it was chosen
    by."""

    index: int
    prompt: list[int]
    seed: int
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    score: float = float("nan")
    random: Random = field(default_factory=Random)

    @property
    def text(self) -> list[int]:
        return [*self.prompt, *self.tokens]

    @property
    def position(self) -> int:
        """The index of the next token in the base's stream, which keys its noise."""
        return len(self.prompt) + len(self.tokens)


class Call:
    """A call's arguments, checked once, its rows, and what they come to.

    ``decoder`` is the base alone; what else a method needs reads beside it. ``options`` other than TAKEN and ``more``
    are refused, since the method would not heed them.

    Raises:
        GenARMError: the call is invalid, or every row failed.
    """

    def __init__(
        self,
        name: str,
        decoder: GuidedDecoder,
        input_ids: PromptInput,
        attention_mask: Tensor | None,
        options: Mapping[str, Any],
        more: Sequence[str] = (),
    ) -> None:
        check_options(name, options, (*TAKEN, *more))
        self.decoder = decoder.only()
        self.request = self.decoder.prepare(input_ids, attention_mask, **options)
        self.errors: dict[int, GenARMError] = dict(self.request.errors)
        prompts, seeds = self.request.streams[0].host, self.request.guidance.seeds.tolist()
        self.rows = [
            MethodRow(row, prompts[row].tolist(), seeds[row], random=Random(seeds[row]))
            for row in range(self.request.batch)
            if row not in self.errors
        ]
        if not self.rows:
            raise all_failed(self.errors)
        self.limit = self.request.max_new_tokens
        self._forwarded: dict[str, int] = dict.fromkeys([model.name for model in self.decoder.models], 0)
        self._steps, self._prefill_seconds, self._started = 0, 0.0, time.perf_counter()
        self._drafts = {"drafted": 0, "accepted": 0, "verified": 0}

    def chunks(self) -> Iterator[list[MethodRow]]:
        """Rows to be written together, at most ``max_batch_size`` of them; none where no token may be generated."""
        most = self.decoder.max_batch_size
        if not self.limit:
            for row in self.rows:
                row.reason = "length"
            return
        for start in range(0, len(self.rows), most):
            yield self.rows[start : start + most]

    @property
    def base(self) -> Readable:
        """The base alone."""
        return models_of(self.decoder)

    @contextmanager
    def reader(self, readable: Readable, batch: int, rows: Sequence[MethodRow]) -> Iterator[TextReader]:
        """A reader of ``batch`` texts, as many of each of ``rows``, which hold a row's prompt once; what it reads is
        counted here."""
        prompts = [row.prompt for row in rows for _ in range(batch // len(rows))]
        opened: AbstractContextManager[TextReader] = reading(
            readable.models, readable.backbones, prompts, self.limit, readable.silent
        )
        with opened as reader:
            yield reader
            for name, tokens in reader.forwarded.items():
                self._forwarded[name] = self._forwarded.get(name, 0) + tokens
            if self.decoder.models[0] in readable.models:
                self._steps += reader.passes

    def count(self, stats: GenerationStats) -> None:
        """Add what a decoding that belongs to this call has read."""
        for name, tokens in stats.forwarded.items():
            self._forwarded[name] = self._forwarded.get(name, 0) + tokens
        self._steps += stats.steps
        self._prefill_seconds += stats.prefill_seconds
        for name in self._drafts:
            self._drafts[name] += getattr(stats, name)

    def prefill(self, reader: TextReader, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Let a reader read its prompts, by the clock for those."""
        started = time.perf_counter()
        logits = reader.prefill(prompts)
        if logits[0].is_cuda:
            torch.cuda.synchronize(logits[0].device)
        self._prefill_seconds += time.perf_counter() - started
        return logits

    def scores(self, logits: Tensor, rows: Sequence[MethodRow]) -> Tensor:
        """The base's logits [R, V_0] with the caller's bias, [R, V] float32. A live row with NaN or +inf among its
        logits, or with nothing left to draw, fails."""
        V, bias = self.request.vocab_size, self.request.guidance.bias
        scores = logits[:, :V].float()
        self.check(scores, rows, self.decoder.models[0].name)
        if bias is not None:
            scores = scores + (bias if bias.dim() == 1 else bias[[row.index for row in rows]])
            self.check_left(scores, rows)
        return scores

    def check_left(self, scores: Tensor, rows: Sequence[MethodRow]) -> None:
        """Fail the live rows of whose scores [R, V] nothing is left to draw."""
        nothing = (scores == -torch.inf).all(1).tolist()
        self._fail([row for row, empty in zip(rows, nothing, strict=True) if empty], 1 << 8, ())

    def check(self, values: Tensor, rows: Sequence[MethodRow], name: str) -> None:
        """Fail the live rows among whose values [R, n] there is NaN or +inf, as model ``name``'s fault."""
        bad = (~(values.amax(1) < torch.inf)).tolist()
        self._fail([row for row, is_bad in zip(rows, bad, strict=True) if is_bad], 1, (name,))

    def check_scores(self, values: Tensor, rows: Sequence[MethodRow], name: str) -> None:
        """Fail the live rows among whose values [R, n], what model ``name`` scores, there is one that is not finite."""
        self.check(torch.where(values.isfinite(), values, torch.inf), rows, name)

    def _fail(self, rows: Sequence[MethodRow], status: int, names: Sequence[str]) -> None:
        for row in rows:
            if row.reason is None:
                where = f"row {row.index}, new token {len(row.tokens)}"
                self.errors[row.index] = numerical_error(where, names, status)
                row.reason = "error"

    def end(self, row: MethodRow, tokens: Sequence[int]) -> tuple[int, FinishReason | None]:
        """How many of ``tokens``, a text behind the row's prompt, count, and what ends it there, None where nothing
        does."""
        text = self._text(row)
        for count, token in enumerate(tokens, 1):
            is_stopped = text is not None and text.push(token)
            if reason := self._reason(tokens, count, token, is_stopped):
                return count, reason
        return len(tokens), None

    def last_end(self, row: MethodRow, tokens: Sequence[int]) -> FinishReason | None:
        """What ends ``tokens``, a text behind the row's prompt that nothing had ended before its last token."""
        if self._text(row) is not None:
            return self.end(row, tokens)[1]
        return self._reason(tokens, len(tokens), tokens[-1], False)

    def _text(self, row: MethodRow) -> RowText | None:
        request = self.request
        if request.decode is None or not request.stop_texts:
            return None
        return RowText(request.decode, row.prompt, request.stop_texts)

    def _reason(self, tokens: Sequence[int], count: int, token: int, is_stopped: bool) -> FinishReason | None:
        """What ends a text of ``count`` tokens with the last of them; ``is_stopped``: a stop string does."""
        if token in self.request.eos_ids:
            return "eos"
        if is_stopped or any(tuple(tokens[max(0, count - len(one)) : count]) == one for one in self.request.stop):
            return "stop"
        return "length" if count == self.limit else None

    def extend(self, row: MethodRow, tokens: Sequence[int]) -> list[int]:
        """Write tokens to a row up to where it ends -> those that were written."""
        before = len(row.tokens)
        whole = [*row.tokens, *tokens]
        count, row.reason = self.end(row, whole)
        row.tokens = whole[:count]
        return row.tokens[before:]

    def output(self) -> GenerationOutput:
        """What the rows came to.

        Raises:
            GenARMError: every row failed.
        """
        request = self.request
        if len(self.errors) == request.batch:
            raise all_failed(dict(sorted(self.errors.items())))
        seconds = time.perf_counter() - self._started
        found = {row.index: row for row in self.rows}
        generated = [found[row].tokens if row in found else [] for row in range(request.batch)]
        tokens = [torch.tensor(ids, dtype=torch.int64, device=request.device) for ids in generated]
        scores = [row.score if row.reason != "error" else float("nan") for row in self.rows]
        table = torch.full((request.batch,), torch.nan, device=request.device)
        table[list(found)] = torch.tensor(scores, device=request.device)
        return GenerationOutput(
            sequences=sequences(request, tokens),
            tokens=tokens,
            finish_reasons=[(found[row].reason if row in found else None) or "error" for row in range(request.batch)],
            errors=dict(sorted(self.errors.items())),
            stats=GenerationStats(
                prompt_tokens=sum(len(row.prompt) for row in self.rows),
                new_tokens=sum(map(len, generated)),
                steps=self._steps,
                prefill_seconds=self._prefill_seconds,
                decode_seconds=seconds - self._prefill_seconds,
                engine=paths(self.decoder.engine.backbones),
                forwarded=dict(self._forwarded),
                **self._drafts,
            ),
            texts=self._texts(generated),
            model_names=self.decoder.engine.names,
            scores=None if bool(table.isnan().all()) else table,
            decode=request.decode,
        )

    def _texts(self, generated: Sequence[Sequence[int]]) -> list[str] | None:
        decode, stops = self.request.decode, self.request.stop_texts
        if decode is None:
            return None
        prompts = self.request.streams[0].host
        return [
            text_before_stop(decode, prompt.tolist(), ids, stops)
            for prompt, ids in zip(prompts, generated, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Models:
    models: Sequence[CausalModel]
    backbones: Sequence[Backbone]
    silent: int | None = None


def models_of(decoder: GuidedDecoder) -> Readable:
    """A decoder's models, to be read together: one reader's M logits are theirs in their order."""
    return _Models(decoder.models, decoder.engine.backbones)


def check_options(name: str, options: Mapping[str, Any], taken: Sequence[str]) -> None:
    """Refuse what a method would not heed.

    Raises:
        InvalidArgumentError: an option that is not among ``taken``.
    """
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise InvalidArgumentError(
            f"{name} does not take {unknown[0]!r}: beside its own settings it takes {', '.join(sorted(taken))}"
        )
