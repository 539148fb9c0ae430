"""Best-of-N: N draws from the base, of which a trajectory RM's favourite is the answer.

    y = argmax over y_1 … y_N ~ π_base(· | x) of r(x, y_n)

The first of equal scores is taken. The draws are plain decoding with the caller's options. A prompt is read once for
its N draws, by the base and by the trajectory RM, and of an answer only the tokens beyond it are read.

Draw n of a row has ``attempt_seeds(row's own seed, N)[n]``: the first is what plain decoding draws, and a row depends
neither on its batch nor, in its first draws, on N.

Source: Stiennon et al., "Learning to summarize from human feedback", NeurIPS 2020; Nakano et al., "WebGPT",
arXiv 2112.09332, 2021. N = 16 in GenARM's comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..engine.batch import Batch, all_failed
from ..errors import GenARMError, InvalidArgumentError
from ..request.guidance import attempt_seeds
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..scalars import Scorer, scalar
from .admission import admit
from .call import Call, MethodRow
from .dpo import PLAIN
from .particles import OWN as OF_PARTICLES

TAKEN = tuple(
    name for name in PLAIN if name not in (*OF_PARTICLES, "return_particles", "return_normalizers", "streamer")
)


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    trajectory_rm: Scorer,
    draws: int = 16,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by best-of-N.

    Args:
        trajectory_rm: a sequence classifier of one label over the base's vocabulary: a path, or loaded.
        draws: N, how many answers each is chosen from. They are drawn beside each other: as many rows are decoded at
            once as ``max_batch_size`` allows, but N at least.
        options: those of ``GuidedDecoder.generate`` that plain decoding has, but streamer. Each of
            ``num_return_sequences`` is chosen from N draws of its own.
    Returns:
        GenerationOutput; ``scores`` are the trajectory RM's of the answers. A row fails with any of its draws.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InvalidArgumentError(f"draws is {draws!r}: pass an integer of at least 1")
    call = Call("best_of_n", decoder, input_ids, attention_mask, options, TAKEN)
    scorer = scalar(decoder, trajectory_rm, "trajectory_rm")
    admit(call, scorer)
    drawn = _drawn(call, draws)
    best = {row.index: row.index * draws for row in call.rows}  # the draw that each row takes
    for rows in _waves(call, draws):
        with call.reader(scorer, len(rows) * draws, rows) as judge:
            answers = [drawn.tokens[row.index * draws + one].tolist() for row in rows for one in range(draws)]
            call.prefill(judge, [row.prompt for row in rows for _ in range(draws)])
            scores = judge.extend(answers)[0][:, 0].float().view(len(rows), draws)
        call.check_scores(scores, rows, scorer.name)
        for row, own in zip(rows, scores.tolist(), strict=True):
            if row.reason is None:
                row.score = max(own)
                best[row.index] += own.index(row.score)
    for row in call.rows:
        if row.reason is None:
            place = best[row.index]
            row.tokens, row.reason = drawn.tokens[place].tolist(), drawn.finish_reasons[place]
    return _with_logprobs(call, drawn, best)


def _drawn(call: Call, draws: int) -> GenerationOutput:
    """N draws for each row of the caller's batch, one behind the other; the rows of which one has failed fail."""
    request = call.request
    index = [row for row in range(request.batch) for _ in range(draws)]
    seeds = [one for seed in request.guidance.seeds.tolist() for one in attempt_seeds(seed, draws)]
    several = request.rows(index)
    guidance = replace(several.guidance, seeds=torch.tensor(seeds, device=request.guidance.seeds.device))
    several = replace(several, row_ids=list(range(len(index))), guidance=guidance)
    try:
        output = Batch(call.decoder.engine, _at_once(call, draws) * draws, several).run()
    except GenARMError as error:
        if error.rows:
            _fail(call, error.rows, draws)
            raise all_failed(call.errors) from None
        raise
    call.count(output.stats)
    _fail(call, output.errors, draws)
    return output


def _fail(call: Call, errors: Mapping[int, GenARMError], draws: int) -> None:
    """Fail the rows of draws that have failed, each with its first one's error."""
    for row in call.rows:
        failed = [one for one in range(draws) if row.index * draws + one in errors]
        if failed:
            error = errors[row.index * draws + failed[0]]
            what = str(error).partition(", ")[2]  # behind the number of the draw's own row
            call.errors[row.index] = type(error)(f"row {row.index}, draw {failed[0]}, {what}")
            row.reason = "error"


def _at_once(call: Call, draws: int) -> int:
    """How many rows are decoded together, with all of their draws."""
    return max(1, call.decoder.max_batch_size // draws)


def _waves(call: Call, draws: int) -> Iterator[list[MethodRow]]:
    """The rows that can be chosen for, in such numbers; none where no token may be generated."""
    rows = [row for row in call.rows if row.reason is None] if call.limit else []
    for start in range(0, len(rows), _at_once(call, draws)):
        yield rows[start : start + _at_once(call, draws)]


def _with_logprobs(call: Call, drawn: GenerationOutput, best: Mapping[int, int]) -> GenerationOutput:
    """The output of the chosen draws, with their log-probabilities where these were asked for."""
    output = call.output()
    if drawn.speculated is not None:  # of all draws that an answer is chosen from
        output = replace(output, speculated=drawn.speculated.view(call.request.batch, -1, 3).sum(1))
    if drawn.logprobs is None or drawn.model_logprobs is None:
        return output
    width = max(map(len, output.tokens))
    shape = (call.request.batch, width)
    logprobs = torch.full(shape, torch.nan, device=drawn.logprobs.device)
    model_logprobs = torch.full((*shape, drawn.model_logprobs.shape[2]), torch.nan, device=drawn.logprobs.device)
    for row in call.rows:
        place, count = best[row.index], len(row.tokens)
        logprobs[row.index, :count] = drawn.logprobs[place, :count]
        model_logprobs[row.index, :count] = drawn.model_logprobs[place, :count]
    return replace(output, logprobs=logprobs, model_logprobs=model_logprobs)
