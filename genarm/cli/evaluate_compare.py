"""`genarm evaluate compare`: everything that can be checked is, then answers, scores, verdicts, tables and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from ..comparison.alpaca import write_model_outputs
from ..comparison.answered import Answered
from ..comparison.answers import Answer, Answers, Question, decode
from ..comparison.config import BASE, Comparison, read_comparison
from ..comparison.contestants import contestants, refuse_shared_judge
from ..comparison.endpoint import Endpoint
from ..comparison.figures import JudgeFigures, MethodFigures, agreement, judge_figures, method_figures
from ..comparison.judging import CRITERION, Verdict, as_rows, judge
from ..comparison.pictures import draw_figures, draw_trade_offs
from ..comparison.scoring import score_answers
from ..comparison.tables import markdown, tables
from ..decoder import GuidedDecoder
from ..errors import GenARMError, InvalidArgumentError
from ..evaluation.choices import Choice
from ..evaluation.scorers import quiet, trajectory_rm
from ..models.options import resolve_device, resolve_dtype
from ..models.sources import fingerprint
from ..runs.encode import RowEncoder
from ..runs.rows import RunInput, read_input
from .console import Display, say
from .info import collect
from .progress import counting


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """The command line of `genarm evaluate compare`."""

    config: Path
    output: Path
    limit: int | None = None
    methods: tuple[str, ...] = ()
    judge: str | None = None
    judge_models: tuple[str, ...] = ()
    judge_key: str | None = None
    judge_workers: int = 4
    judge_timeout: float = 60.0
    engine: str = "eager"
    dtype: str = "auto"
    device: str = "auto"
    overwrite: bool = False
    retry_failed: bool = False
    trust_remote_code: bool = False


def run(options: CompareOptions, console: Console) -> int:
    """Answer, score, judge, print tables and write everything; the exit status, 1 where an answer failed.

    Raises:
        GenARMError: options, files or models that cannot be used, an endpoint that cannot be asked.
    """
    comparison = chosen(read_comparison(options.config), options.methods)
    endpoint = endpoint_of(options)
    refuse_shared_judge(comparison)
    source = read_input(comparison.prompts)
    if source.problems:
        raise InvalidArgumentError(source.problems[0])
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"--output {options.output}: cannot be made ({error.strerror})") from None
    with quiet():
        decoder = _decoder(comparison, options)
        questions = _questions(comparison, decoder, source, options.limit)
        answers = _answer(comparison, options, decoder, questions, source.digest)
        figures = _figures(comparison, options, decoder, answers)
    verdicts = _verdicts(comparison, options, endpoint, answers)
    judged = judge_figures(verdicts)
    for table in tables(figures, judged):
        console.print(table)
    _write(comparison, options, answers, figures, judged, verdicts)
    say(f"answers, figures and pictures are in {options.output}")
    return int(any(row.failed for row in figures))


def chosen(comparison: Comparison, labels: Sequence[str]) -> Comparison:
    """The comparison with these methods alone, all without any."""
    known = [choice.label for choice in comparison.methods]
    for label in labels:
        if label not in known:
            raise InvalidArgumentError(f"--method names {label!r}: the configuration has {', '.join(known)}")
    if not labels:
        return comparison
    reference = comparison.reference if comparison.reference in labels else BASE
    methods = tuple(choice for choice in comparison.methods if choice.label in labels)
    return replace(comparison, methods=methods, reference=reference)


def endpoint_of(options: CompareOptions) -> Endpoint | None:
    """The endpoint to ask, with its key.

    Raises:
        InvalidArgumentError: no model to ask, a variable that is not set, models without an endpoint.
    """
    if options.judge is None:
        if options.judge_models or options.judge_key:
            raise InvalidArgumentError("--judge-model and --judge-key say how an endpoint is asked: give --judge URL")
        return None
    if not options.judge_models:
        raise InvalidArgumentError("--judge asks a model of that endpoint: name it, --judge-model NAME")
    key = None
    if options.judge_key is not None:
        key = os.environ.get(options.judge_key)
        if not key:
            raise InvalidArgumentError(
                f"--judge-key names {options.judge_key}, which is not in the environment: export it, or leave it out"
            )
    return Endpoint(options.judge, key, options.judge_timeout)


def _decoder(comparison: Comparison, options: CompareOptions) -> GuidedDecoder:
    return GuidedDecoder.from_pretrained(
        comparison.base,
        dict(comparison.rewards),
        dtype=options.dtype,
        device=options.device,
        max_batch_size=None,
        engine=options.engine,  # type: ignore[arg-type]  # checked there
        trust_remote_code=options.trust_remote_code,
    )


def _questions(comparison: Comparison, decoder: GuidedDecoder, source: RunInput, limit: int | None) -> list[Question]:
    encoder = RowEncoder.of(decoder.tokenizer, comparison.chat, comparison.system)
    return [Question(row.index, row.id, row.prompt, encoder.encode(row)) for row in source.rows[:limit]]


def _answer(
    comparison: Comparison,
    options: CompareOptions,
    decoder: GuidedDecoder,
    questions: Sequence[Question],
    digest: str,
) -> list[Answer]:
    """Every method's answers, decoded where they are missing."""
    device = resolve_device(options.device)
    shared = {
        "base": comparison.base,
        "content of base": fingerprint(comparison.base),
        "content of the prompts": digest,
        "max_new_tokens": comparison.max_new_tokens,
        "batch_size": comparison.batch_size,
        "chat": comparison.chat,
        "system": comparison.system,
        "engine": options.engine,
        "dtype": str(resolve_dtype(options.dtype, device)).removeprefix("torch."),
        "device": str(device),
    }
    ready = contestants(comparison, decoder, shared)
    answers = Answers(options.output, questions, comparison.seeds, options.overwrite, options.retry_failed)
    try:
        missing = answers.open({one.label: one.settings for one in ready})
        answers.begin()
        with Display(missing) as display:
            decode(ready, answers, comparison.batch_size, comparison.max_new_tokens, display.report)
        return answers.read()
    except KeyboardInterrupt:
        say(f"interrupted: what was answered is in {options.output}; the same command goes on from there")
        raise
    finally:
        answers.close()


def _figures(
    comparison: Comparison, options: CompareOptions, decoder: GuidedDecoder, answers: Sequence[Answer]
) -> list[MethodFigures]:
    """Every method's figures, with the judge loaded where answers are not scored yet."""
    choice = Choice("judge", "trajectory-rm", comparison.judge)
    with counting("scoring answers") as report:
        scored = score_answers(
            answers,
            decoder.only(),
            lambda: trajectory_rm(comparison.base, choice, decoder.source, decoder.tokenizer),
            fingerprint(comparison.judge) or comparison.judge,
            Answered(options.output / "scores.jsonl"),
            comparison.batch_size,
            report,
        )
    return method_figures(answers, scored)


def _verdicts(
    comparison: Comparison, options: CompareOptions, endpoint: Endpoint | None, answers: Sequence[Answer]
) -> list[Verdict]:
    if endpoint is None:
        return []
    kept = Answered(options.output / "judge.jsonl")
    criterion = comparison.criterion or CRITERION
    with counting("asking the judge") as report:
        return judge(
            endpoint,
            options.judge_models,
            answers,
            comparison.reference,
            kept,
            criterion,
            options.judge_workers,
            report,
        )


def _write(
    comparison: Comparison,
    options: CompareOptions,
    answers: Sequence[Answer],
    figures: Sequence[MethodFigures],
    judged: Sequence[JudgeFigures],
    verdicts: Sequence[Verdict],
) -> None:
    folder = options.output
    record = {
        "comparison": {**asdict(comparison), "prompts": str(comparison.prompts)},
        "limit": options.limit,
        "engine": options.engine,
        "versions": collect().versions,
        "methods": [row.as_dict() for row in figures],
        "judged": [row.as_dict() for row in judged],
        "judges_agree": agreement(verdicts),
        "verdicts": as_rows(verdicts),
    }
    _text(folder / "compare.json", json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")
    _text(folder / "compare.md", markdown(figures, judged))
    write_model_outputs(answers, folder, comparison.dataset)
    try:
        draw_figures(figures, folder / "compare.png")
        draw_trade_offs(figures, folder / "trade-offs.png")
    except GenARMError as error:  # matplotlib is an extra
        say(str(error))


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
