"""What a request to a guided server may say, checked where it arrives: a wrong one is answered there and never reaches
the batch.

vLLM, with either model runner, loads a class by its name (MODULE:CLASS) in every process and calls its
``validate_params``. A class per server carries the guidance, so its name holds all of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar

from vllm import SamplingParams

from ..errors import InvalidArgumentError
from .model_logprobs import raised
from .settings import ServedGuidance, asks

PREFIX = "Guided_"


class GuidedRequests:
    """The guidance of a server, and what its requests are held to.

    ``seeds``: whether requests may bring one. On a CPU vLLM's model runner v1 ends with an error where it reads a
    prompt in part and has to take back the draw of a generator, which a CPU's cannot. ``tells``: whether the sampler
    reports to the table of rows.
    """

    guidance: ClassVar[ServedGuidance]
    seeds: ClassVar[bool]
    tells: ClassVar[bool]

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise InvalidArgumentError, which vLLM answers with status 400, for what cannot be decoded."""
        cls.guidance.row(sampling_params.extra_args)
        if sampling_params.seed is not None and not cls.seeds:
            raise InvalidArgumentError(
                "this server reads long prompts in parts, and vLLM on a CPU cannot keep a request's seed then: leave "
                "the seed out, or start the server with --max-num-batched-tokens at least as large as --max-model-len"
            )
        for name in ("prompt_logprobs", "prompt_logprob_token_ids"):
            if getattr(sampling_params, name, None) is not None:
                raise InvalidArgumentError(
                    f"{name} (echo with logprobs) is not supported in guided decoding: leave it out, or score with "
                    "GuidedDecoder.score"
                )
        if asks(sampling_params.extra_args):
            if not cls.tells:
                raise InvalidArgumentError("model_logprobs are not built for this kind of device: leave them out")
            raised(sampling_params, 1 + len(cls.guidance.rewards))


def class_name(parent: type[GuidedRequests], guidance: ServedGuidance, seeds: bool, tells: bool) -> str:
    """The name by which vLLM loads the subclass of ``parent`` for this guidance in any process: MODULE:CLASS."""
    return f"{parent.__module__}:{PREFIX}{json.dumps([asdict(guidance), seeds, tells]).encode().hex()}"


@lru_cache
def named(parent: type[GuidedRequests], name: str) -> Any:
    """The subclass of ``parent`` that a name of ``class_name`` stands for, always the same one.

    Raises:
        AttributeError: it is no such name.
    """
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {parent.__module__!r} has no attribute {name!r}")
    told, seeds, tells = json.loads(bytes.fromhex(name.removeprefix(PREFIX)))
    members = {"guidance": ServedGuidance.from_dict(told), "seeds": seeds, "tells": tells}
    return type(name, (parent,), {**members, "__module__": parent.__module__})
