"""What a trajectory RM or a value head says of given responses."""

from __future__ import annotations

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError, NumericalError
from ..models.scalar import ScalarModel
from ..request.inputs import PromptInput
from ..request.responses import Responses, count_responses, read_responses
from ..scalars import text_scores
from ..scoring import response_errors, score_options


def response_scores(
    decoder: GuidedDecoder,
    scorer: ScalarModel,
    prompts: PromptInput,
    responses: Responses,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """What a model of one number says of each response behind its prompt, [B] float32 on the CPU. They are given as to
    ``GuidedDecoder.score``.

    Raises:
        GenARMError: one of them cannot be read, or its score is no number.
    """
    plain = decoder.only()
    request = plain.prepare(prompts, attention_mask, **score_options(prompts, responses, {}))
    if (count := count_responses(responses)) != request.batch:
        raise InvalidArgumentError(f"{count} responses were given for {request.batch} prompts: give one each")
    found = read_responses(responses, request.streams[0].host, plain.facts(), request.decode)
    for _, error in sorted({**response_errors(request, plain.facts(), found), **request.errors}.items()):
        raise error
    prompt_ids = request.streams[0].host
    scores = text_scores(scorer, [[*prompt_ids[row].tolist(), *own] for row, own in enumerate(found)], plain)
    if bad := (~scores.isfinite()).nonzero().flatten().tolist():
        raise NumericalError(f"row {bad[0]}: {scorer.name} gives {float(scores[bad[0]])}: check its weights and dtype")
    return scores
