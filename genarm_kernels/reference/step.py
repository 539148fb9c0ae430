"""The oracles of a step's tail: one row after the other, its tokens as a list."""

from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.progress import Progress
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, GOING_ON, LEAST_MATCH, MOST_MATCH, STOP
from genarm_kernels.step.texts import Texts


def advance(sample: GuidedSample, progress: Progress, pad_id: int, excuse_ended: bool = False) -> Progress:
    """The progress as it should be; the one given stays as it is."""
    found = Progress(*(None if value is None else value.clone() for value in progress))  # type: ignore[arg-type]
    step = int(progress.step)
    for row, (token, status) in enumerate(zip(sample.tokens.tolist(), sample.status.tolist(), strict=True)):
        ended = int(progress.reasons[row])
        was_going_on = ended == GOING_ON
        text = [*progress.generated[row, :step].tolist(), token]
        if was_going_on:
            ended = ERROR if status else end_of(text, progress.eos_ids.tolist(), progress.stops.tolist())
        found.generated[row, step] = token if was_going_on and not status else pad_id
        found.tokens[row], found.reasons[row] = token, ended
        found.positions[row] += 1
        found.report[:, row] = progress.report.new_tensor([token, ended, status])
        if excuse_ended and not was_going_on:
            found.report[2, row] = 0
        if found.seen is not None:
            found.seen[row, token] = True
        for name in ("logprobs", "model_logprobs", "log_normalizers"):
            kept, drawn = getattr(found, name), getattr(sample, name)
            if kept is not None:
                kept[row, step] = drawn[row]
    found.step.add_(1)
    return found


def end_of(text: list[int], eos_ids: list[int], stops: list[list[int]]) -> int:
    """How a text's last token ends it."""
    if text[-1] in eos_ids:
        return EOS
    for stop in stops:
        wanted = stop[max((place + 1 for place, one in enumerate(stop) if one == ANY_TOKEN), default=0) :]
        if len(wanted) <= len(text) and text[len(text) - len(wanted) :] == wanted:
            return STOP
    return GOING_ON


def accept(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> tuple[Tensor, Texts]:
    """How many draws each row takes, and the texts as they should be; those given stay as they are."""
    found = Texts(*(None if value is None else value.clone() for value in texts))  # type: ignore[arg-type]
    Q = drafts.shape[1] + 1
    for row, draft in enumerate(drafts.tolist()):
        found.report[:Q, row] = sample.tokens[row * Q : (row + 1) * Q]
        own = _take_draws(sample, draft[: int(proposed[row])], found, row, Q)
        found.report[-len(own) :, row] = proposed.new_tensor(own)
    return found.report[texts.most], found


def _take_draws(sample: GuidedSample, draft: list[int], texts: Texts, row: int, Q: int) -> list[int]:
    """Taken, accepted, proposed, reason and status of one row, which takes one draw after the other."""
    taken = accepted = offered = status = 0
    while taken < Q and texts.reasons[row] == GOING_ON and texts.counts[row] < texts.limits[row]:
        offered, status = len(draft), int(sample.status[row * Q + taken])
        if status:
            texts.reasons[row] = ERROR
            break
        token = int(sample.tokens[row * Q + taken])
        _write(sample, row * Q + taken, token, texts, row)
        taken += 1
        if draft[taken - 1 : taken] != [token]:
            break
        accepted += 1
    return [taken, accepted, offered, int(texts.reasons[row]), status]


def _write(sample: GuidedSample, draw: int, token: int, texts: Texts, row: int) -> None:
    """The row's next token, and whether it ends its text."""
    position, count = int(texts.positions[row]), int(texts.counts[row])
    texts.texts[row, position] = texts.tokens[row] = token
    if texts.seen is not None:
        texts.seen[row, token] = True
    for name in ("logprobs", "model_logprobs", "log_normalizers"):
        kept, drawn = getattr(texts, name), getattr(sample, name)
        if kept is not None:
            kept[row, count] = drawn[draw]
    new = texts.texts[row, position - count : position + 1].tolist()
    texts.reasons[row] = end_of(new, texts.eos_ids.tolist(), texts.stops.tolist())
    texts.positions[row] += 1
    texts.counts[row] += 1


def ngram_draft(texts: Tensor, positions: Tensor, gamma: int) -> tuple[Tensor, Tensor]:
    """Drafts [B, gamma] and how many are proposed, [B]: of each row what followed the latest of the longest matches."""
    drafts, proposed = texts.new_zeros(len(texts), gamma), positions.clone().zero_()
    for row, end in enumerate(positions.tolist()):
        text = texts[row, :end].tolist()
        follows = _after_match(text)
        if follows is not None:
            for ahead in range(gamma):
                text.append(text[follows + ahead])
            drafts[row], proposed[row] = drafts.new_tensor(text[end:]), gamma
    return drafts, proposed


def _after_match(text: list[int]) -> int | None:
    """Where what follows the match begins."""
    for length in range(MOST_MATCH, LEAST_MATCH - 1, -1):
        for follows in range(len(text) - 1, length - 1, -1):
            if text[follows - length : follows] == text[len(text) - length :]:
                return follows
    return None
