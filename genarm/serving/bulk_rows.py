"""The rows of a run as requests to vLLM, and what it answered as rows of an output. Imports neither vLLM nor Ray.

A row that cannot be decoded is found out here, before it is sent: in vLLM it would end the call of all rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import GenARMError, InvalidArgumentError, PromptError
from ..runs.encode import RowEncoder
from ..runs.results import Result, failure
from ..runs.rows import Row, refuse_settings
from ..runs.run import PER_ROW
from ..runs.seeds import run_seeds, seed_of
from .settings import WEIGHT, ServedGuidance

# Keywords of GuidedDecoder.generate that vLLM has; the others have to be what they are where nobody sets them.
TOLD = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "beta", "base_weight")
DEFAULTS: dict[str, Any] = {**PER_ROW, "max_new_tokens": 128, "stop": []}
# name -> whether a number is in its range, and the range in words
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "0 or above"),
    "top_k": (lambda value: value >= 0 and value == int(value), "a whole number, 0 or above"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "repetition_penalty": (lambda value: value > 0, "above 0"),
    "max_new_tokens": (lambda value: value >= 1 and value == int(value), "a whole number, 1 or above"),
}


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """A prompt's ids, and its sampling parameters under vLLM's names, ``extra_args`` among them."""

    ids: list[int]
    params: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BulkTask:
    """How the rows of a run become requests.

    ``weights`` and ``options`` are the run's, where a row has none of its own; ``max_length`` holds for prompt and
    continuation together; ``vocab_size`` is the base's.
    """

    guidance: ServedGuidance
    encoder: RowEncoder
    weights: Mapping[str, float]
    options: Mapping[str, Any]
    seed: int
    max_length: int
    vocab_size: int

    def check(self) -> None:
        """Raise InvalidArgumentError for options of the run that vLLM cannot decode with."""
        self._params({}, self.weights, 0)

    def requests(self, rows: Sequence[Row]) -> dict[int, BulkRequest | GenARMError]:
        """Each row's request, or what is wrong with it, by its place in ``rows``."""
        seeds = run_seeds(self.seed, rows)
        found: dict[int, BulkRequest | GenARMError] = {}
        for place, row in enumerate(rows):
            try:
                found[place] = self._request(row, seeds)
            except GenARMError as error:
                found[place] = error
        return found

    def _request(self, row: Row, seeds: Sequence[int]) -> BulkRequest:
        ids, settings = self.encoder.encode(row), dict(row.settings)
        seed = seed_of(row, seeds, settings.pop("seed", None))
        params = self._params(settings, self._weights(row), seed)
        if any(not 0 <= one < self.vocab_size for one in ids):
            raise PromptError(
                f"the prompt holds token ids outside the vocabulary of {self.vocab_size}: encode it with the base "
                "model's tokenizer"
            )
        if len(ids) + params["max_tokens"] > self.max_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, with {params['max_tokens']} new ones over max_length = "
                f"{self.max_length}: shorten it, lower max_new_tokens, or raise max_length as far as the models' "
                "positions go"
            )
        return BulkRequest(ids, params)

    def _weights(self, row: Row) -> dict[str, float]:
        if row.weights is None:
            return dict(self.weights)
        if not isinstance(row.weights, dict):
            raise InvalidArgumentError(f"weights is {row.weights!r}: write an object of names and numbers")
        return {**self.weights, **row.weights}

    def _params(self, own: Mapping[str, Any], weights: Mapping[str, float], seed: int) -> dict[str, Any]:
        refuse_settings(own)
        options = {**DEFAULTS, **self.options, **own}
        for name, value in options.items():
            if name not in TOLD and value != DEFAULTS.get(name):
                raise InvalidArgumentError(
                    f"{name} is set, and vLLM has no such setting: leave it out, or decode without --engine"
                )
        for name, (fits, wanted) in RANGES.items():
            value = options[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
                raise InvalidArgumentError(f"{name} is {value!r}: give {wanted}")
        extra = {f"{WEIGHT}{name}": weight for name, weight in weights.items()}
        extra |= {name: options[name] for name in ("beta", "base_weight")}
        self.guidance.row(extra)
        params = {name: options[name] for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
        params |= {"max_tokens": int(options["max_new_tokens"]), "extra_args": extra, **_stops(options["stop"])}
        return params if not options["temperature"] else {**params, "seed": seed}


def _stops(stop: Any) -> dict[str, Any]:
    """Strings, and ids that end a text by themselves."""
    entries = [stop] if isinstance(stop, str) else stop
    if not isinstance(entries, list):
        raise InvalidArgumentError(f"stop is {stop!r}: write a list of texts")
    texts = [one for one in entries if isinstance(one, str)]
    ids = [one for one in entries if not isinstance(one, str)]
    if not all(texts) or any(not isinstance(one, list) or len(one) != 1 for one in ids):
        raise InvalidArgumentError(
            f"stop is {stop!r}: vLLM ends a text before a string that is not empty, or with one id ([id]), and knows "
            "no sequences of ids"
        )
    return {"stop": texts, "stop_token_ids": [one[0] for one in ids]}


def result_of_answer(row: Row, request: BulkRequest, answer: Mapping[str, Any]) -> Result:
    """A row of the output: what came of a request. ``answer`` is what an engine sends back (bulk.py), an error's text
    or the text, its ids and why it ended."""
    if "error" in answer:
        return failure(row, GenARMError(answer["error"]))
    extra = request.params["extra_args"]
    weights = {name.removeprefix(WEIGHT): value for name, value in extra.items() if name.startswith(WEIGHT)}
    reason = answer["finish_reason"]
    if reason == "stop":
        own = (*request.params["stop"], *request.params["stop_token_ids"])
        reason = "stop" if answer["stop_reason"] in own else "eos"
    count = len(answer["tokens"])
    return {**row.head, "text": answer["text"], "weights": weights, "token_count": count, "finish_reason": reason}
