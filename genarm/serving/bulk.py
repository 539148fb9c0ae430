"""Many rows over many machines: a Ray Data pipeline around vLLM's offline engine with the guided model.

Ray keeps the engines at work, starts those of a lost machine elsewhere, and sends what was lost with it once more. An
engine writes nothing: answers come back to the one process that asked, which writes each row (cli/bulk.py).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import RunError
from .bulk_rows import BulkRequest
from .settings import ServedGuidance, hf_overrides

BLOCKS = 4  # batches that an engine is given at a time: enough to keep it full, few enough to be lost with a machine


@dataclass(frozen=True, slots=True)
class BulkEngine:
    """What every engine loads, and how: ``batch_size`` requests are decoded at once, compiled where there are GPUs (on
    a CPU compiling takes minutes)."""

    base: str
    guidance: ServedGuidance
    dtype: str
    max_length: int
    batch_size: int
    trust_remote_code: bool = False
    on_gpu: bool = True

    def arguments(self) -> dict[str, Any]:
        """Of vLLM's LLM. A prompt is read in one pass, so that a request may bring its seed."""
        return {
            "model": self.base,
            "dtype": self.dtype,
            "max_model_len": self.max_length,
            "max_num_seqs": self.batch_size,
            "max_num_batched_tokens": max(self.max_length, 2048),
            "trust_remote_code": self.trust_remote_code,
            "enforce_eager": not self.on_gpu,
            "hf_overrides": hf_overrides(self.guidance),
        }


class Answering:
    """One engine, in a process of Ray's: requests in, answers out."""

    def __init__(self, engine: BulkEngine) -> None:
        # In this very process, so that nothing outlives it where its machine's Ray ends.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM

        self._llm = LLM(**engine.arguments())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """A block of rows, each with its place and a request as JSON -> the same places, and an answer each."""
        from vllm import SamplingParams

        requests = [BulkRequest(**json.loads(one)) for one in batch["request"].tolist()]
        answers: dict[int, dict[str, Any]] = {}
        told = {}
        for index, request in enumerate(requests):
            try:
                told[index] = SamplingParams(**request.params)
            except (ValueError, TypeError) as error:
                answers[index] = {"error": " ".join(str(error).split())}
        prompts = [{"prompt_token_ids": requests[index].ids} for index in told]
        outputs = self._llm.generate(prompts, list(told.values()), use_tqdm=False)
        answers |= {index: _answer(output.outputs[0]) for index, output in zip(told, outputs, strict=True)}
        places = batch["place"].tolist()
        return {"place": places, "answer": [json.dumps(answers[index]) for index in range(len(places))]}


def _answer(output: Any) -> dict[str, Any]:
    if output.finish_reason == "error":
        return {"error": output.stop_reason or "vLLM ended the request with an error: its log says why"}
    return {
        "text": output.text,
        "tokens": list(output.token_ids),
        "finish_reason": output.finish_reason,
        "stop_reason": output.stop_reason,
    }


def answers(
    engine: BulkEngine, requests: Mapping[int, BulkRequest], address: str | None, engines: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The answer to each request by its key, as they come; one may come twice where a machine was lost.

    Args:
        address: of a Ray cluster, such as ``auto`` or ``host:6379``; None starts one on this machine alone.
        engines: how many at once; None: one per GPU of the cluster, or one per machine where it has none.

    Raises:
        RunError: Ray is not there or cannot be reached, or an engine failed for a reason that is no row's own.
    """
    ray = _connected(address)
    try:
        yield from _answers(ray, engine, requests, engines)
    except ray.exceptions.RayError as error:
        raise RunError(f"the engines failed ({_reason(error)}): finished rows are kept") from error
    finally:
        ray.shutdown()


def _answers(
    ray: Any, engine: BulkEngine, requests: Mapping[int, BulkRequest], engines: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = engines or gpus or sum(node["Alive"] for node in ray.nodes())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"place": place, "request": json.dumps(request.as_dict())} for place, request in requests.items()]
    per_block = max(1, min(BLOCKS * engine.batch_size, -(-len(items) // count)))
    rows = ray.data.from_items(items, override_num_blocks=-(-len(items) // per_block))
    found = rows.map_batches(
        Answering,
        fn_constructor_args=(replace(engine, on_gpu=bool(gpus)),),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for batch in found.iter_batches(batch_size=None, prefetch_batches=0):
        for place, answer in zip(batch["place"].tolist(), batch["answer"].tolist(), strict=True):
            yield place, json.loads(answer)


def _connected(address: str | None) -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise RunError("Ray is not installed here: pip install 'genarm[ray]'") from None
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
    try:
        ray.init(**own, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"no Ray cluster answers at {address} ({_reason(error)}): start one with ray start") from error
    return ray


def _reason(error: BaseException) -> str:
    """The last line that says something: of a failed task, its own exception."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
