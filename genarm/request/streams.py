"""The prompts of each model's stream, and the rows that cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..errors import GenARMError, InvalidArgumentError, PromptError, RewardNameError
from .facts import ModelFacts
from .guidance import known_names
from .inputs import PromptInput, read_inputs
from .prompts import Prompts, prompt_errors


def read_streams(
    models: ModelFacts,
    input_ids: PromptInput,
    mask: Tensor | None,
    given: Mapping[str, PromptInput] | None,
    pad_id: int,
    copies: int,
) -> tuple[list[Prompts], dict[int, str]]:
    """Each model's prompts, and what is wrong with the text of which row."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"reward_prompts is a {type(given).__name__}: pass {{name: prompts}}")
    for name in given:
        if name not in models.reward_names:
            known = known_names(name, models.reward_names)
            raise RewardNameError(f"reward_prompts names {name!r}, which is not loaded: {known}")
    prompts, errors = _repeated(read_inputs(models, input_ids, mask, pad_id), copies)
    streams, batch = [prompts], len(prompts.rows)
    for name in models.reward_names:
        if name not in given:
            streams.append(prompts)
            continue
        found = read_inputs(models, given[name], None, pad_id, f"reward_prompts[{name!r}]")
        rows = len(found[0].rows)
        own, wrong = _repeated(found, copies if rows * copies == batch else 1)
        if len(own.rows) != batch:
            raise InvalidArgumentError(
                f"reward_prompts[{name!r}] has {rows} rows, input_ids {batch // copies}: give one per row"
            )
        errors = {**wrong, **errors}
        streams.append(own)
    return streams, errors


def _repeated(found: tuple[Prompts, dict[int, str]], copies: int) -> tuple[Prompts, dict[int, str]]:
    """Each row so many times, one behind the other."""
    if copies == 1:
        return found
    prompts, errors = found
    index = [row for row in range(len(prompts.rows)) for _ in range(copies)]
    return prompts.select(index), {place: errors[row] for place, row in enumerate(index) if row in errors}


def row_errors(
    models: ModelFacts, streams: list[Prompts], max_new_tokens: int, weights: Tensor, wrong: Mapping[int, str]
) -> dict[int, GenARMError]:
    """The errors of rows that cannot be decoded, what is ``wrong`` with texts among them."""
    errors: dict[int, GenARMError] = {row: PromptError(f"row {row}: {text}") for row, text in wrong.items()}
    for index, (name, ids, stream) in enumerate(zip(models.names, models.prompt_ids, streams, strict=True)):
        found = prompt_errors(stream, ids, models.max_length, max_new_tokens, name)
        if found and ids < models.prompt_ids[0]:  # a model of weight 0 need not know the base's ids
            without = prompt_errors(stream, models.prompt_ids[0], models.max_length, max_new_tokens, name)
            used = (weights[:, index] != 0).tolist()
            found = {row: error for row in found if (error := found[row] if used[row] else without.get(row))}
        if name in models.wakes:
            found = {**_asleep_for_good(models.wakes[name], stream, name), **found}
        for row, error in found.items():
            errors.setdefault(row, error)
    return errors


def _asleep_for_good(wake: Callable[[Sequence[int]], int], prompts: Prompts, name: str) -> dict[int, GenARMError]:
    """The rows whose prompts do not hold what wakes a model's adapter."""
    errors: dict[int, GenARMError] = {}
    for row, prompt in enumerate(prompts.host):
        try:
            wake(prompt.tolist())
        except InvalidArgumentError as error:
            errors[row] = PromptError(f"row {row}: reward model {name!r}: {error}")
    return errors
