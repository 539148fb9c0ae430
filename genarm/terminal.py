"""``terminal=``: a reward on finished answers, whose exp(r/β) multiplies the weights of particles at the end.

It is a trajectory RM (a path, a loaded classifier, or what ``genarm.scalars.scalar`` made of one), which reads prompt
and answer together, or a callable of the caller's on texts: ``terminal(texts)``, or ``terminal(texts, prompts)`` where
it takes two arguments, lists of strings of one length. It returns a number for each text, −inf for an answer that must
not be given. It may be called with the answers to several prompts at once, and with an answer that several particles
share once, so a text's reward must not depend on the others.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .admission import admitted
from .engine.reader import reading
from .errors import GenARMError, InvalidArgumentError, NumericalError
from .models.scalar import ScalarModel
from .request.detokenize import text_before_stop
from .request.options import Request
from .scalars import Beside, Scorer, scalar

TextReward = Callable[..., Sequence[float] | Tensor]
Terminal = Scorer | TextReward
NAME = "terminal"


@dataclass(frozen=True, slots=True)
class TerminalRewards:
    """What a terminal reward says of n answers.

    values: [n] float64 on the CPU, -inf where an answer must not be given; NaN for those in ``errors``, the answers
    whose reward is no number. ``forwarded`` counts the tokens that a trajectory RM read for them.
    """

    values: Tensor
    errors: dict[int, GenARMError]
    forwarded: Mapping[str, int] = field(default_factory=dict)


def admit_terminal(decoder: Beside, terminal: Terminal, request: Request) -> Request:
    """The request such that ``terminal`` can read its answers: rows fail whose prompts a trajectory RM cannot read, and
    ids that it lacks are not drawn.

    Raises:
        GenARMError: it is neither a trajectory RM of the base's vocabulary nor a callable on texts.
    """
    if _is_callable(terminal):
        if request.decode is None:
            raise InvalidArgumentError(
                "terminal is a callable on texts and the decoder has no tokenizer: give it one (tokenizer=…, in the "
                "drop-in processing_class=…), or pass a trajectory RM"
            )
        _takes_prompts(terminal)
        return request
    return admitted(request, _scorer(decoder, terminal).models, decoder.tokenizer)


def terminal_rewards(
    decoder: Beside,
    terminal: Terminal,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    texts: Sequence[str] | None,
    request: Request,
) -> TerminalRewards:
    """The rewards of n answers, lists of ids behind their prompts' ids, each distinct one asked for once.

    ``texts``: the answers' texts as ``GenerationOutput.texts`` has them, made here where they are None.

    Raises:
        InvalidArgumentError: a callable that does not return a number for each text.
        GenARMError: the trajectory RM's cache does not fit, or ``admit_terminal`` would have refused it.
    """
    pairs = [(tuple(prompt), tuple(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    first = {pair: place for place, pair in reversed(list(enumerate(pairs)))}
    places = sorted(first.values())
    asked = [pairs[place] for place in places]
    forwarded: Mapping[str, int] = {}
    if _is_callable(terminal):
        own = [_text(request, *pair) for pair in asked] if texts is None else [texts[place] for place in places]
        found = _called(terminal, own, [prompt for prompt, _ in asked], request)
    else:
        found, forwarded = _scores(_scorer(decoder, terminal), asked, decoder.max_batch_size)
    order = {pair: place for place, pair in enumerate(asked)}
    values = found[torch.tensor([order[pair] for pair in pairs], dtype=torch.int64)]
    bad = (values.isnan() | (values == math.inf)).nonzero().flatten().tolist()
    errors: dict[int, GenARMError] = {place: _no_number(terminal, float(values[place])) for place in bad}
    values[bad] = math.nan
    return TerminalRewards(values, errors, forwarded)


def _is_callable(terminal: Any) -> bool:
    return callable(terminal) and not isinstance(terminal, str | Path | nn.Module | ScalarModel)


def _scorer(decoder: Beside, terminal: Any) -> ScalarModel:
    if not isinstance(terminal, str | Path | nn.Module | ScalarModel) or terminal == "":
        raise InvalidArgumentError(
            f"terminal is {terminal!r}: pass the path of a trajectory RM (genarm train trajectory-rm makes one), a "
            "loaded sequence classifier, or a function from texts to numbers"
        )
    return scalar(decoder, terminal, NAME)


def _takes_prompts(terminal: Any) -> bool:
    """Whether a callable takes the prompts beside the answers: by its arguments without a default."""
    try:
        parameters = inspect.signature(terminal).parameters.values()
    except (TypeError, ValueError):  # what is written in C may not say
        return False
    needed = [one for one in parameters if one.default is one.empty]
    count = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in needed)
    named = [one.name for one in needed if one.kind is one.KEYWORD_ONLY]
    is_open = any(one.kind is one.VAR_POSITIONAL or one.default is not one.empty for one in parameters)
    if named or count > 2 or (count == 0 and not is_open):
        names = ", ".join(one.name for one in parameters) or "nothing"
        raise InvalidArgumentError(
            f"terminal takes {names}: write it as terminal(texts) or terminal(texts, prompts), whatever else it takes "
            "with a default"
        )
    return count == 2


def _text(request: Request, prompt: Sequence[int], answer: Sequence[int]) -> str:
    assert request.decode is not None
    return text_before_stop(request.decode, prompt, answer, request.stop_texts)


def _called(terminal: Any, texts: list[str], prompts: Sequence[Sequence[int]], request: Request) -> Tensor:
    """What a callable says of the texts, [n] float64."""
    more: list[list[str]] = []
    if _takes_prompts(terminal):
        assert request.decode is not None
        known = {prompt: request.decode(list(prompt)) for prompt in map(tuple, prompts)}
        more = [[known[tuple(prompt)] for prompt in prompts]]
    given = terminal(list(texts), *more)
    wanted = f"return a number for each of the {len(texts)} texts"
    try:
        values = torch.as_tensor(given).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidArgumentError(f"terminal returned {_shown(given)}: {wanted}") from None
    if values.is_complex() or tuple(values.shape) != (len(texts),):
        raise InvalidArgumentError(f"terminal returned values of shape {list(values.shape)}: {wanted}")
    return values.clone()


def _scores(
    scorer: ScalarModel, asked: Sequence[tuple[Sequence[int], Sequence[int]]], most: int
) -> tuple[Tensor, Mapping[str, int]]:
    """What a trajectory RM says of each prompt with its answer, [n] float64, and the tokens that it read: a prompt
    once for its answers that are read together."""
    values = torch.empty(len(asked), dtype=torch.float64)
    forwarded = {scorer.name: 0}
    order = sorted(range(len(asked)), key=lambda place: (asked[place][0], len(asked[place][1])))
    for start in range(0, len(order), most):
        places = order[start : start + most]
        prompts = [asked[place][0] for place in places]
        answers = [asked[place][1] for place in places]
        with reading(scorer.models, scorer.backbones, prompts, max(map(len, answers)), scorer.silent) as reader:
            found = reader.prefill(prompts)[0][:, 0]
            if any(answers):
                written = torch.tensor([bool(answer) for answer in answers], device=found.device)
                found = torch.where(written, reader.extend(answers)[0][:, 0], found)
            values[places] = found.double().cpu()
            forwarded[scorer.name] += reader.forwarded[scorer.name]
    return values, forwarded


def _no_number(terminal: Any, value: float) -> GenARMError:
    what = "give numbers, -inf for an answer that must not be given" if _is_callable(terminal) else ""
    return NumericalError(f"terminal gives {value} for an answer: {what or 'check its weights and dtype'}")


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."
