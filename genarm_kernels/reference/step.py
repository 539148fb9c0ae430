"""The oracle of a step's tail: one row after the other, its tokens as a list."""

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.progress import Progress
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, GOING_ON, STOP


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
