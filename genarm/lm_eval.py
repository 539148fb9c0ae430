"""The model `genarm` of lm-evaluation-harness: its tasks under the guided distribution, generated and by likelihood.

The harness has no entry point for models, so importing this module registers it: ``python -m genarm.lm_eval run --model
genarm …`` is the harness's own command line with it. Needs the extra `lm-eval`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import lm_eval.models  # noqa: F401  the harness fills its registry with its own models only while it is empty
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console
from rich.progress import track

import genarm_kernels

from .decoder import GuidedDecoder
from .errors import InvalidArgumentError
from .models.sources import model_path, parse_rewards
from .request.drafts import NGRAM, REWARD
from .request.speculation import read_speculation
from .request.text import PromptEncoder, render_chat

# Of a task's generation_kwargs, what the decoder has under the same name, and what says nothing to it.
OPTIONS = {
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("particles", "resample_below", "resample_every", "length_bonus", "terminal"),
}
KNOWN = {"do_sample", "until", "max_gen_toks"}


@register_model("genarm")
class GenarmLM(TemplateLM):  # type: ignore[misc]
    """A base model guided by reward models, in every kind of request.

    Args:
        base: a folder or hub id; None is the embedded base.
        rewards: as `--reward` of the command line, several with ";" between them ("helpful=path:1.0;art:0.5"), or a
            list of such texts.
        beta, base_weight, base_min_p, base_top_p: as in ``GuidedDecoder.generate``, for likelihoods too.
        batch_size: rows at once; "auto" takes as many as fit, and so does the harness's "auto:N".
        max_length: tokens of prompt and answer together; contexts lose their beginning.
        dtype, device, trust_remote_code: as in ``GuidedDecoder.from_pretrained``.
        seed: of what is sampled.
        speculate, gamma: what drafts tokens of generated texts, "ngram", "reward", or a small model's folder or hub id,
            and how many per step, 1 to 7 or "auto". They change no text.
    """

    def __init__(
        self,
        base: str | None = None,
        rewards: str | Sequence[str] = (),
        *,
        beta: float = 1.0,
        base_weight: float = 1.0,
        base_min_p: float = 0.0,
        base_top_p: float = 1.0,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        max_length: int = 4096,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        seed: int = 0,
        speculate: str | None = None,
        gamma: int | str | None = None,
    ) -> None:
        super().__init__()
        self.drafts = _drafts(speculate, gamma)
        texts = [text for text in rewards.split(";") if text] if isinstance(rewards, str) else list(rewards)
        choices = parse_rewards(texts)
        size: Any = max_batch_size or _size(batch_size)
        self.decoder = GuidedDecoder.from_pretrained(
            model_path(base),
            {choice.name: choice.path for choice in choices},
            dtype=dtype,
            device=device,
            max_batch_size=size,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
        )
        self.tokenizer = self.decoder.tokenizer
        if self.tokenizer is None:
            raise InvalidArgumentError(f"{base}: has no tokenizer, and tasks are texts: save one beside the model")
        self.encoder = PromptEncoder(self.tokenizer)
        self.guidance: dict[str, Any] = {
            "weights": {choice.name: choice.weight for choice in choices},
            "beta": beta,
            "base_weight": base_weight,
            "base_min_p": base_min_p,
            "base_top_p": base_top_p,
        }
        self.batch_size = self.decoder.max_batch_size
        self.seed = seed
        self._device = self.decoder.device

    @property
    def max_length(self) -> int:
        """Tokens of a text whose every one is predicted: the first stands behind another."""
        return self.decoder.max_length - 1

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text as a prompt has them: one BOS where the tokenizer adds one, and no EOS."""
        return self.encoder.ids(string) if add_special_tokens is False else self.encoder.text(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return render_chat(self.tokenizer, chat_history, **how)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The guided log-probability of each continuation, and whether it is what greedy decoding would write."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        # Long ones first, and choices for one context side by side, which is read once then.
        order = sorted(range(len(requests)), key=lambda index: (-len(requests[index][1]), requests[index][1]))
        most = self.decoder.max_length
        for rows in _shown(_batches(order, self.batch_size), "guided likelihoods", disable_tqdm):
            answers = [requests[row][2][-(most - 1) :] for row in rows]
            contexts = [requests[row][1][-(most - len(answer)) :] for row, answer in zip(rows, answers, strict=True)]
            scores = self.decoder.score(contexts, answers, **self.guidance)
            for error in scores.errors.values():
                raise error
            for row, total, greedy in zip(rows, scores.totals.tolist(), scores.greedy.tolist(), strict=True):
                found[row] = (total, greedy)
                if requests[row][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[row][0], found[row])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The guided log-probability of each whole text, in windows of ``max_length``."""
        found = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            found.append(sum(total for total, _ in self._loglikelihood_tokens(pairs, disable_tqdm)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Guided texts up to their stop strings; tasks that do not sample get the likeliest token each time."""
        found = [""] * len(requests)
        seeds = genarm_kernels.row_seeds(self.seed, len(requests))  # a request's own, whatever its batch
        order = sorted(range(len(requests)), key=lambda index: repr(requests[index].args[1]))
        for _, group in groupby(order, key=lambda index: repr(requests[index].args[1])):
            rows = list(group)
            settings = normalize_gen_kwargs(requests[rows[0]].args[1])
            options = _options(settings)
            room = self.decoder.max_length - options["max_new_tokens"]
            if room < 1:
                raise InvalidArgumentError(
                    f"max_gen_toks is {options['max_new_tokens']}, and max_length {self.decoder.max_length} leaves no "
                    "room for a prompt: raise the one or lower the other"
                )
            prompts = {row: self.tok_encode(requests[row].args[0])[-room:] for row in rows}
            rows.sort(key=lambda row: -len(prompts[row]))
            for batch in _shown(_batches(rows, self.batch_size), "guided texts", disable_tqdm):
                given = [prompts[row] for row in batch]
                out = self.decoder.generate(given, seed=seeds[batch], **self.drafts, **self.guidance, **options)
                for error in out.errors.values():
                    raise error
                for row, text in zip(batch, out.texts or (), strict=True):
                    found[row] = text
                    self.cache_hook.add_partial("generate_until", requests[row].args, text)
        return found


def _size(batch_size: int | str) -> int | str:
    text = str(batch_size)
    if text.split(":")[0] == "auto":
        return "auto"
    if not text.isdecimal():
        raise InvalidArgumentError(f"batch_size is {batch_size!r}: pass a number, or auto")
    return int(text)


def _drafts(draft: str | None, gamma: int | str | None) -> dict[str, Any]:
    """Model arguments as keywords of the decoder, refused before a model is loaded."""
    if draft is None:
        if gamma is not None:
            raise InvalidArgumentError("gamma is about drafts: give speculate too")
        return {}
    found = {"draft": draft if draft in (NGRAM, REWARD) else model_path(draft), "gamma": gamma}
    read_speculation(found)
    return {"speculate": found}


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's generation_kwargs as the decoder's keywords."""
    unknown = sorted(set(settings) - OPTIONS - KNOWN)
    if unknown:
        raise InvalidArgumentError(
            f"generation_kwargs hold {unknown[0]!r}: guided decoding takes {', '.join(sorted(OPTIONS | KNOWN))}"
        )
    options = {name: settings[name] for name in OPTIONS & set(settings)}
    if settings.get("do_sample") is False:  # which the harness makes of tasks that say nothing about it
        options["temperature"] = 0.0
    stop = [text for text in settings["until"] if text]
    return {**options, "stop": stop, "max_new_tokens": int(settings["max_gen_toks"])}


def _shown(batches: list[list[int]], what: str, quiet: bool) -> Iterable[list[int]]:
    return track(batches, what, console=Console(stderr=True), disable=quiet, transient=True)


def _batches(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
