"""What the responses of vLLM's server say of the models: their log-probabilities of each token, and their names.

`genarm serve` names ``GuidedResponses`` as an ASGI middleware (vLLM's ``--middleware``), through which the server's own
application can be reached. It touches no request. It stands before the two functions that make the logprobs of
completions and of chats, streamed or not, and does nothing where a request did not ask for every model's; before the
list of models, where it writes the weights of requests that name none; and behind the engine, where a request that was
ended because of a model's logits is answered with what was wrong with them, in place of vLLM's "Internal server error".
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from vllm.exceptions import GenerationError

from .model_logprobs import split
from .settings import ASK, KEY, ServedGuidance

LOWEST = -9999.0  # what vLLM's responses have for -inf, which JSON does not know
HANDLERS = {
    "openai_serving_completion": "_create_completion_logprobs",
    "openai_serving_chat": "_create_chat_logprobs",
    "openai_serving_chat_batch": "_create_chat_logprobs",
}


class GuidedResponses:
    """Passes everything on. With the first call, which the server makes when it starts, it finds the handlers."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._is_there = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self._is_there:
            self._is_there = True
            tell(scope["app"].state)
        await self._app(scope, receive, send)


def tell(state: Any) -> None:
    """Make the handlers of a server's state say what they know of the models."""
    guidance = ServedGuidance.from_dict(getattr(state.engine_client.model_config.hf_config, KEY))
    for place, method in HANDLERS.items():
        handler = getattr(state, place, None)
        if handler is not None:
            setattr(handler, method, _telling(getattr(handler, method), guidance.names))
    state.engine_client.generate = _explaining(state.engine_client.generate)
    models = state.openai_serving_models
    models.show_available_models = _naming(models.show_available_models, guidance)


def _telling(make: Callable[..., Any], rewards: Sequence[str]) -> Callable[..., Any]:
    def made(*args: Any, top_logprobs: Any, **settings: Any) -> Any:
        plain, found = split(top_logprobs, rewards)
        if found is None:
            return make(*args, top_logprobs=top_logprobs, **settings)
        logprobs = make(*args, top_logprobs=plain, **settings)
        setattr(logprobs, ASK, {name: list(map(_as_json, values)) for name, values in found.items()})
        return logprobs

    return made


def _explaining(generate: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    """The engine's outputs, up to one that ended with an error which says its reason (scheduler.py): status 500."""

    async def explained(*args: Any, **settings: Any) -> AsyncIterator[Any]:
        async with aclosing(generate(*args, **settings)) as outputs:
            async for output in outputs:
                for one in output.outputs:
                    if one.finish_reason == "error" and isinstance(one.stop_reason, str):
                        raise GenerationError(one.stop_reason)
                yield output

    return explained


def _naming(show: Callable[[], Awaitable[Any]], guidance: ServedGuidance) -> Callable[[], Awaitable[Any]]:
    told = {
        "weights": {reward.name: reward.weight for reward in guidance.rewards},
        "beta": guidance.beta,
        "base_weight": guidance.base_weight,
    }

    async def shown() -> Any:
        models = await show()
        for card in models.data:
            setattr(card, KEY, told)
        return models

    return shown


def _as_json(value: float) -> float | None:
    return None if math.isnan(value) else max(value, LOWEST)
