"""`genarm generate --engine ray`: the rows of a run over many machines, in the same file, resumed in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import GenARMError, LoadingError
from ..models.loading import load_tokenizer
from ..models.options import resolve_device, resolve_dtype
from ..runs.encode import RowEncoder
from ..runs.output import OutputFile
from ..runs.results import Result, failure
from ..runs.rows import Row
from ..serving.bulk import BulkEngine, answers
from ..serving.bulk_rows import BulkRequest, BulkTask, result_of_answer
from ..serving.settings import ServedGuidance
from .options import GenerateOptions
from .outputs import Decode, Job
from .served_rewards import served_rewards


def decode_on_cluster(job: Job, output: OutputFile) -> Decode:
    """What decodes on a Ray cluster, once everything that can be wrong beforehand was checked.

    Raises:
        GenARMError: options that vLLM has nothing for, models that cannot be read.
    """
    options = job.options
    guidance = ServedGuidance(
        tuple(served_rewards(job.rewards, options.models.reward_bases, job.base)),
        options.decoding["beta"],
        options.decoding["base_weight"],
    )
    tokenizer = load_tokenizer(job.base, options.models.trust_remote_code)
    task = BulkTask(
        guidance,
        RowEncoder.of(tokenizer, options.chat, options.system),
        {reward.name: reward.weight for reward in job.rewards},
        options.decoding,
        options.seed,
        options.models.max_length,
        _vocab_size(job.base, options),
    )
    task.check()
    dtype = resolve_dtype(options.models.dtype, resolve_device(options.models.device))
    engine = BulkEngine(
        job.base,
        guidance,
        str(dtype).removeprefix("torch."),
        options.models.max_length,
        options.models.batch_size,
        options.models.trust_remote_code,
    )

    def decode(report: Callable[[Result], None]) -> None:
        rows = [row for row in job.source.rows if row.key not in output.finished]
        _decode(engine, rows, task.requests(rows), options, output, report)

    return decode


def _decode(
    engine: BulkEngine,
    rows: Sequence[Row],
    found: dict[int, BulkRequest | GenARMError],
    options: GenerateOptions,
    output: OutputFile,
    report: Callable[[Result], None],
) -> None:
    """Write every row once: first those that cannot be decoded, then each as its answer comes."""

    def finish(row: Row, result: Result) -> None:
        if row.key not in output.finished:  # an answer that came twice
            output.write(result)
            report(result)

    for place, one in found.items():
        if isinstance(one, GenARMError):
            finish(rows[place], failure(rows[place], one))
    requests = {place: one for place, one in found.items() if isinstance(one, BulkRequest)}
    if requests:
        for place, answer in answers(engine, requests, options.address, options.engines):
            finish(rows[place], result_of_answer(rows[place], requests[place], answer))
    output.sync()


def _vocab_size(base: str, options: GenerateOptions) -> int:
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(base, trust_remote_code=options.models.trust_remote_code)
    except (OSError, ValueError) as error:
        raise LoadingError(f"{Path(base).name}: its config.json cannot be read ({error})") from error
    return int(config.get_text_config().vocab_size)
