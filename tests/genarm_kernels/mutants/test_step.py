"""Broken variants of a step's tail: its rules and its kernel."""

import pytest
import tail_cases as cases
from mutations import edited, proofs

from genarm_kernels.step import advance

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]

several = cases.check_several_programs
sequences = cases.check_ends_of_stop_sequences
first = cases.check_first_tokens
many = cases.check_long_and_many
which = cases.check_which_end
faults = cases.check_faults_of_ended_rows
alone = cases.check_rows_alone
beyond = cases.check_nothing_is_written_beyond
everything = cases.check_everything

kernel, figures, counting = advance.advance_kernel, advance.keep_figures, advance.count_step
among, stops = advance.is_among, advance.ends_in_stop
MUTANTS = {
    "a fault is no end": (edited(advance.reason, "where(over, error, ", "where(over, going_on, "), which),
    "a stop sequence before EOS": (
        edited(advance.reason, "is_eos, eos, where(is_stop, stop, going_on)",
               "is_stop, stop, where(is_eos, eos, going_on)"),
        which),
    "EOS before a fault": (
        edited(advance.reason, "where(over, error, where(is_eos, eos, where(is_stop, stop, going_on)))",
               "where(is_eos, eos, where(over, error, where(is_stop, stop, going_on)))"), which),
    "an end that is forgotten": (edited(advance.reason, "where(before == 0, found, before)", "found"), which),
    "a fault's token kept": (edited(advance.is_over, "(reasons | status)", "reasons"), which),
    "tokens behind an end kept": (edited(advance.is_over, "(reasons | status)", "status"), which),
    "no wildcard": (edited(advance.fits, "| (wanted == any_token)", ""), sequences),
    "faults of all rows excused": (edited(advance.fault, "(reasons == 0)", "(reasons == 7)"), faults),
    "faults always excused": (edited(kernel, "if EXCUSE_ENDED:", "if True:"), faults),
    "faults never excused": (edited(kernel, "if EXCUSE_ENDED:", "if False:"), faults),
    "the second load of EOS ids is lost":
        (edited(among, "range(0, count, AT_ONCE)", "range(0, AT_ONCE, AT_ONCE)"), which),
    "ids behind the last": (edited(among, "places < count", "places < count + 1"), which),
    "the last id is lost": (edited(among, "places < count", "places < count - 1"), which),
    "only ids of the first load": (edited(among, "found | (token", "(token"), which),
    "sequences behind the last match": (edited(stops, "missed = sequences >= S", "missed = sequences < 0"), first),
    "the last sequence is lost": (edited(stops, "missed = sequences >= S", "missed = sequences >= S - 1"), sequences),
    "only sequences of the first load": (edited(stops, "range(0, S, AT_ONCE)", "range(0, min(S, 4), AT_ONCE)"), many),
    "only sequences of the last load": (edited(stops, "found = found | ~missed", "found = ~missed"), many),
    "only places of the first load": (edited(stops, "range(0, L, AT_ONCE)", "range(0, min(L, 4), AT_ONCE)"), many),
    "one place is enough": (edited(stops, "missed | ~fits", "~fits"), sequences),
    "places of the next sequence": (edited(stops, "(back < L) & ", ""), many),
    "texts begin in the row before": (edited(stops, "& (columns >= 0)", ""), first),
    "whatever is before the first token": (edited(stops, "other=_NO_TOKEN", "other=_ANY_TOKEN * 0 + 3"), first),
    "the token is read where it is not yet":
        (edited(stops, "tl.where(back == 0, token, tl.load(text + columns, mask=earlier, other=_NO_TOKEN))",
                "tl.load(text + columns, mask=earlier | (back == 0), other=_NO_TOKEN)"), sequences),
    "texts from the left": (edited(stops, "(L - 1 - back)", "back"), sequences),
    "every row the first's text":
        (edited(kernel, "progress.generated + of_lanes * n", "progress.generated + of_lanes * 0"), sequences),
    "every row the first's token":
        (edited(kernel, "each = tl.load(sample.tokens + of_lanes",
               "each = tl.load(sample.tokens + of_lanes * 0"), sequences),
    "padding of its own": (edited(kernel, "tl.where(over, pad_id, token)", "tl.where(over, 0, token)"), which),
    "no padding": (edited(kernel, "tl.where(over, pad_id, token)", "token"), which),
    "every step the first column": (edited(kernel, "rows * n + step, kept", "rows * n + step * 0, kept"), which),
    "a column too far": (edited(kernel, "mask=inside & (rows * 0 + step < n)", "mask=inside"), beyond),
    "tokens that are not live not taken":
        (edited(kernel, "tl.store(progress.tokens + rows, token", "tl.store(progress.tokens + rows, kept"), which),
    "positions stand still": (edited(kernel, "position + 1", "position"), which),
    "positions of live rows alone":
        (edited(kernel, "position + 1", "tl.where(over, position, position + 1)"), which),
    "ends not stored":
        (edited(kernel, "tl.store(progress.reasons + rows, after,",
            "tl.store(progress.reasons + rows, before,"), which),
    "a report of the ends before":
        (edited(kernel, "progress.report + B + rows, after", "progress.report + B + rows, before"), which),
    "a report of what is kept":
        (edited(kernel, "progress.report + rows, token", "progress.report + rows, kept"), which),
    "a report without status": (edited(kernel, "status.to(tl.int64), mask", "status.to(tl.int64) * 0, mask"), which),
    "seen not noted": (edited(kernel, "token, exists, mask", "token, exists & ~exists, mask"), everything),
    "seen rows lie together": (edited(kernel, "rows * seen_stride", "rows * V"), everything),
    "ids that are not noted": (edited(kernel, "& (token >= 0) & (token < V)", ""), beyond),
    "ids below 0 noted": (edited(kernel, "(token >= 0) & ", ""), beyond),
    "log-probs in the first column": (edited(figures, "column = rows * n + step", "column = rows * n"), everything),
    "figures a column too far": (edited(figures, "& (rows * 0 + step < n)", ""), beyond),
    "log-probs of the first row": (edited(figures, "sample.logprobs + rows", "sample.logprobs + rows * 0"), everything),
    "one model's log-probs":
        (edited(figures, "has_model = written[:, None] & (models < M)",
            "has_model = written[:, None] & (models < 1)"), everything),
    "models' rows mixed up": (edited(figures, "rows[:, None] * M", "rows[:, None]"), everything),
    "no normalisers":
        (edited(figures, "sample.log_normalizers + rows, mask", "sample.logprobs + rows, mask"), everything),
    "rows behind the last": (edited(kernel, "inside = rows < B", "inside = rows < B + 1"), alone),
    "programs of the same rows":
        (edited(kernel, "tl.program_id(0).to(tl.int64) * ROWS", "tl.program_id(0).to(tl.int64) * 0"), several),
    "every program counts":
        (edited(counting, "last = tl.atomic_add(arrived, 1) == programs - 1",
            "last = tl.atomic_add(arrived, 1) >= 0"), several),
    "the first program counts": (edited(counting, "== programs - 1", "== 0"), several),
    "a counter that is not reset": (edited(counting, "tl.store(arrived, 0)", "pass"), several),
    "one program does not count": (edited(counting, "last = programs == 1", "last = programs == 0"), which),
    "a step that stands still": (edited(counting, "steps + 1", "steps"), which),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
