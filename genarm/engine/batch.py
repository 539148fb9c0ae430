"""Runs a request chunk by chunk and gathers what its rows came to."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import GenARMError, InvalidArgumentError
from ..request.detokenize import RowText, text_before_stop
from ..request.options import Request
from ..request.output import FinishReason, GenerationOutput, GenerationStats, StreamStep
from .engine import Engine
from .loop import LIVE, Decoding
from .particle_loop import SystemDecoding
from .ragged_loop import RaggedDecoding


class Steps(Iterator[StreamStep]):
    """The steps of a call, each decoded when it is asked for.

    Until the last one the call has its buffers. ``close()`` gives them back before, and so do the end of a ``with``
    block and of the last reference.
    """

    def __init__(self, steps: Generator[StreamStep]) -> None:
        self._steps = steps

    def __next__(self) -> StreamStep:
        return next(self._steps)

    def close(self) -> None:
        """End the call here. Steps that were not taken are not decoded; closing twice does nothing."""
        self._steps.close()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Batch:
    """One request while it is decoded: chunks of at most ``largest`` rows, one after the other."""

    def __init__(self, engine: Engine, largest: int, request: Request) -> None:
        rows = [row for row in range(request.batch) if row not in request.errors]
        if not rows:
            raise all_failed(request.errors)
        if request.speculate is not None and request.interrupts:
            raise InvalidArgumentError(
                "logits processors and stopping criteria of the caller see every token before the next is drawn, so "
                "none can be drafted ahead: leave speculate out, or them"
            )
        self._engine = engine
        self._request = request
        largest = engine.at_once(request, rows, largest)
        if request.particles is not None:  # a system's are decoded together, however many
            largest = max(1, largest // request.particles.count) * request.particles.count
        self._largest = largest
        groups = engine.groups(request, rows)
        if len(rows) > largest and engine.exchanges(request, largest, rows):
            largest = len(rows)
            request = replace(request, coming=request.rows(rows).streams)
        self.places = [own[start : start + largest] for own in groups for start in range(0, len(own), largest)]
        self._chunks = [request.rows(places) for places in self.places]
        if len(rows) < request.batch or len(self._chunks) > 1:
            tell_of_hooks(engine, len(self._chunks))
        self.done: list[Decoding] = []
        self._texts: list[RowText] = []  # where text is wanted while the rows are decoded

    def run(self) -> GenerationOutput:
        """Decode to the end."""
        if self._request.stop_texts and self._request.particles is None:
            self._texts = self._row_texts()
        for _ in self._decode():
            pass
        return self.output()

    def steps(self) -> Steps:
        """Decode to the end, one StreamStep per step of a chunk."""
        return Steps(self._steps())

    def _steps(self) -> Generator[StreamStep]:
        batch = self._request.batch
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            finished = torch.zeros(batch, dtype=torch.bool)
        finished[list(self._request.errors)] = True
        self._texts = self._row_texts()
        for rows, decoding, emitted in self._decode():
            tokens = [torch.empty(0, dtype=torch.int64)] * batch
            for row, new in zip(rows, emitted, strict=True):
                if new:
                    tokens[row] = torch.tensor(new)
            finished[rows] = torch.tensor([reason is not None for reason in decoding.reasons])
            yield StreamStep(tokens, finished.clone(), self._new_texts(decoding.reasons, rows))

    def _decode(self) -> Iterator[tuple[list[int], Decoding, list[list[int]]]]:
        """Steps of one chunk after the other: the rows it has, and the tokens that each got."""
        if len(self._chunks) > 1:  # one that would not fit is said before the others run
            self._engine.check(self._chunks)
        for places, chunk in zip(self.places, self._chunks, strict=True):
            self.done.append(self._decoding(chunk))
            for emitted in self.done[-1].run():
                yield places, self.done[-1], emitted
        self._engine.positions.tell([self._longest(stream.lengths) for stream in self._request.streams])
        errors = self._errors()
        if len(errors) == self._request.batch:
            raise all_failed(errors)

    def _decoding(self, chunk: Request) -> Decoding:
        if chunk.particles is not None:
            return SystemDecoding(self._engine, chunk)
        watch = self._watch if self._texts else None
        if chunk.ragged:
            return RaggedDecoding(self._engine, chunk, watch, slots=min(self._largest, chunk.batch))
        return Decoding(self._engine, chunk, watch)

    def _longest(self, prompts: list[int]) -> int:
        """Tokens of the longest text of a stream whose prompts have these lengths."""
        rows = zip(self.places, self.done, strict=True)
        return max(prompts[row] + len(new) for places, one in rows for row, new in zip(places, one.tokens, strict=True))

    def _row_texts(self) -> list[RowText]:
        request = self._request
        if request.decode is None:
            return []
        prompts = request.streams[0].host
        return [RowText(request.decode, prompt.tolist(), request.stop_texts) for prompt in prompts]

    def _watch(self, row: int, token: int) -> bool:
        return self._texts[row].push(token)

    def _new_texts(self, reasons: Sequence[object], rows: Sequence[int]) -> list[str] | None:
        """What has become final of each row's text; a chunk's ``rows`` have ended for these reasons, or not."""
        if not self._texts:
            return None
        found = [""] * self._request.batch
        for row, reason in zip(rows, reasons, strict=True):
            found[row] = self._texts[row].take(reason is not None)
        return found

    def _all_texts(self, generated: Sequence[Sequence[int]]) -> list[str] | None:
        decode = self._request.decode
        if decode is None:
            return None
        if self._texts:
            return [row.end() for row in self._texts]
        rows = zip(self._request.streams[0].host, generated, strict=True)
        return [text_before_stop(decode, prompt.tolist(), ids, self._request.stop_texts) for prompt, ids in rows]

    def _errors(self) -> dict[int, GenARMError]:
        """The error of each failed row, prompts and decoding together."""
        errors = dict(self._request.errors)
        for places, decoding in zip(self.places, self.done, strict=False):
            errors.update({places[index]: error for index, error in decoding.errors.items()})
        return dict(sorted(errors.items()))

    def live_logprobs(self) -> Tensor | None:
        """``model_logprobs`` of the tokens so far, between two steps, for which a device is waited for. None before the
        first step and after the last, and of rows that are in several chunks or move apart, as drafts make them."""
        if len(self.places) != 1:
            return None
        return self._model_logprobs(max((len(row) for one in self.done for row in one.tokens), default=0), LIVE)

    def output(self) -> GenerationOutput:
        """The results, once every step has run."""
        request, device = self._request, self._request.device
        generated: list[list[int]] = [[] for _ in range(request.batch)]
        reasons: list[FinishReason] = ["error"] * request.batch
        for places, decoding in zip(self.places, self.done, strict=True):
            for row, own, reason in zip(places, decoding.tokens, decoding.reasons, strict=True):
                generated[row], reasons[row] = own, reason or "error"
        tokens = [torch.tensor(row, dtype=torch.int64, device=device) for row in generated]
        width = max(map(len, tokens))
        guided = self._table("guided", width)
        speculated = self._speculated()
        return GenerationOutput(
            sequences=sequences(request, tokens),
            tokens=tokens,
            finish_reasons=reasons,
            errors=self._errors(),
            texts=self._all_texts(generated),
            stats=self._stats(sum(len(row) for row in tokens), guided, speculated),
            logprobs=self._table("logprobs", width),
            model_logprobs=self._model_logprobs(width),
            guided=guided,
            log_normalizers=self._table("log_normalizers", width),
            model_names=self._engine.names,
            decode=request.decode,
            speculated=speculated,
        )

    def _model_logprobs(self, width: int, name: str = "model_logprobs") -> Tensor | None:
        """Each model's own, NaN where it does not know the text before."""
        table = self._table(name, width)
        if table is not None:
            for places, decoding in zip(self.places, self.done, strict=True):
                for index, row in enumerate(places):
                    for model, start in self._request.unread(row, decoding.tokens[index]):
                        table[row, start:, model] = torch.nan
        return table

    def _table(self, name: str, width: int) -> Tensor | None:
        """What the chunks kept under a name for each token, [B, width, …]: NaN, or False, behind a row's end. None
        where they kept nothing."""
        if not self.done or name not in self.done[0].kept:
            return None
        like = self.done[0].kept[name][0]
        empty = False if like.dtype == torch.bool else torch.nan
        table = like.new_full((self._request.batch, width, *like.shape[1:]), empty)
        for places, decoding in zip(self.places, self.done, strict=True):
            found = decoding.kept[name]
            for index, row in enumerate(places):
                count = len(decoding.tokens[index])
                table[row, :count] = found[index][:count]
        return table

    def _speculated(self) -> Tensor | None:
        """[B, 3] int64, each row's drafted and accepted tokens and steps with drafts. None without speculation."""
        if self._request.speculate is None:
            return None
        counts = torch.zeros(self._request.batch, 3, dtype=torch.int64)
        for places, decoding in zip(self.places, self.done, strict=True):
            assert isinstance(decoding, RaggedDecoding)
            counts[places] = torch.tensor(decoding.counts)
        return counts

    def _stats(self, new_tokens: int, guided: Tensor | None, speculated: Tensor | None) -> GenerationStats:
        drafted, accepted, verified = (0, 0, 0) if speculated is None else speculated.sum(0).tolist()
        return GenerationStats(
            prompt_tokens=sum(sum(chunk.streams[0].lengths) for chunk in self._chunks),
            new_tokens=new_tokens,
            steps=sum(decoding.steps for decoding in self.done),
            prefill_seconds=sum(decoding.prefill_seconds for decoding in self.done),
            decode_seconds=sum(decoding.decode_seconds for decoding in self.done),
            guided_tokens=None if guided is None else int(guided.sum()),
            drafted=drafted,
            accepted=accepted,
            verified=verified,
            row_steps=sum(decoding.row_steps for decoding in self.done),
            engine=next((one.kind for one in self.done if one.kind), "") or self._engine.kind,
            forwarded=self._forwarded(),
        )

    def _forwarded(self) -> dict[str, int]:
        """Tokens that each model had to read: the distinct prompts of every chunk, of which an activated one on
        the fused decoder reads but the end, and all but the last new token."""
        found, activations = dict.fromkeys(self._engine.names, 0), self._engine.activations
        for chunk, decoding in zip(self._chunks, self.done, strict=True):
            for place, (name, stream) in enumerate(zip(self._engine.names, chunk.streams, strict=True)):
                rows = stream.host if chunk.max_new_tokens else []
                # A prompt is read for each preference anew.
                own = chunk.preferences.get(place, [()] * len(rows))
                prompts = {(given, tuple(row.tolist())) for given, row in zip(own, rows, strict=False)}
                activation = activations.get(place)
                read = (len(ids) if activation is None else activation.awake(ids) for _, ids in prompts)
                found[name] += decoding.tokens_read + sum(read)
        return found


def sequences(request: Request, tokens: Sequence[Tensor]) -> Tensor:
    """[B, T + n] int64: the prompts' columns, and each row's new tokens, 1-D int64, padded behind."""
    new = torch.full((request.batch, max(map(len, tokens))), request.pad_id, device=request.device)
    for index, ids in enumerate(tokens):
        new[index, : len(ids)] = ids
    return torch.cat([request.streams[0].columns, new], dim=1)


def tell_of_hooks(engine: Engine, chunks: int) -> None:
    """Warn where a batch that is read in parts, or without some of its rows, may be known to hooks."""
    if engine.hooked:
        how = f"in {chunks} chunks: raise max_batch_size" if chunks > 1 else "without those that failed: drop them"
        warnings.warn(
            f"the models have hooks, which may know the batch's rows, and its rows are decoded {how}", stacklevel=5
        )


def all_failed(errors: dict[int, GenARMError]) -> GenARMError:
    """The first row's error, carrying every row's."""
    first = next(iter(errors.values()))
    return type(first)(str(first), rows=errors)
