"""Broken variants of a step's tail with drafts: its kernel."""

import accept_cases as cases
import pytest
from mutations import edited, proofs

from genarm_kernels.step import accept

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]

everything = cases.check_everything
plain = cases.check_plain_steps
taken = cases.check_what_is_taken
inside = cases.check_ends_inside
sequences = cases.check_stop_sequences
many = cases.check_long_and_many
alone = cases.check_rows_alone
beyond = cases.check_nothing_is_written_beyond

kernel, keep, stops, at_place = accept.accept_kernel, accept.keep_draws, accept.ends_in_stop, accept.at_place
MUTANTS = {
    "drafts behind those proposed count": (edited(kernel, " & (places < offered)", ""), taken),
    "a draft too few": (edited(kernel, "places < offered", "places < offered - 1"), taken),
    "drafts that were not drawn count": (edited(kernel, "(token == draft) & ", ""), taken),
    "drafts of the row before": (edited(kernel, "drafts + rows * (Q - 1)", "drafts + rows * Q"), everything),
    "an end inside is passed over":
        (edited(kernel, "tl.minimum(agreeing, tl.min(tl.where(ends == _GOING_ON, PLACES, places), 1, keep_dims=True))",
                "agreeing.to(tl.int64)"), inside),
    "whatever differs is passed over":
        (edited(kernel, "last = tl.minimum(agreeing, tl.min(tl.where(ends == _GOING_ON, PLACES, places), 1, "
                "keep_dims=True))",
                "last = tl.minimum(Q - 1, tl.min(tl.where(ends == _GOING_ON, PLACES, places), 1, keep_dims=True))"),
         taken),
    "a mismatch is not taken": (edited(kernel, "taken = tl.where(fault == 0, last + 1, last)", "taken = last"), taken),
    "a fault is taken": (edited(kernel, "tl.where(fault == 0, last + 1, last)", "last + 1"), inside),
    "limits are not kept": (edited(kernel, "tl.minimum(last, limit - count - 1)", "last"), taken),
    "a limit is a token too far": (edited(kernel, "limit - count - 1", "limit - count"), taken),
    "full rows go on": (edited(kernel, " & (count < limit)", ""), taken),
    "ended rows go on": (edited(kernel, "(before == _GOING_ON) & (count < limit)", "count < limit"), inside),
    "a fault of another place":
        (edited(kernel, "at_place(status, places, last)", "at_place(status, places, 0)"), inside),
    "the last draw's end":
        (edited(kernel, "at_place(ends, places, last)", "at_place(ends, places, Q - 1)"), inside),
    "ends not stored":
        (edited(kernel, "tl.store(texts.reasons + rows, after,", "tl.store(texts.reasons + rows, before,"), inside),
    "an end is forgotten": (edited(kernel, "tl.where(is_live, at_place(ends, places, last), before)",
                                   "at_place(ends, places, last)"), inside),
    "a token too early":
        (edited(kernel, "at_place(token, places, taken - 1)", "at_place(token, places, taken - 2)"), taken),
    "no token for rows that take none":
        (edited(kernel, "newest, mask=inside & (taken > 0)", "newest, mask=inside"), inside),
    "the sum of all places": (edited(at_place, "places == place", "places >= 0"), taken),
    "what is not taken is written":
        (edited(kernel, "token, mask=is_taken & (columns < T)", "token, mask=there & (columns < T)"), taken),
    "a column too far": (edited(kernel, "mask=is_taken & (columns < T)", "mask=is_taken"), beyond),
    "every row the first's text": (edited(kernel, "texts.texts + rows * T + columns", "texts.texts + columns"), taken),
    "positions stand still": (edited(kernel, "position + taken", "position"), taken),
    "counts stand still": (edited(kernel, "count + taken", "count"), taken),
    "seen although not taken": (edited(kernel, "exists = is_taken &", "exists = there &"), everything),
    "ids that are not noted": (edited(kernel, " & (token >= 0) & (token < V)", ""), beyond),
    "seen rows lie together": (edited(kernel, "rows * seen_stride", "rows * V"), everything),
    "a report of what is taken": (edited(kernel, "places * B + rows, token, mask=there",
                                         "places * B + rows, token, mask=is_taken"), taken),
    "a report for as many places as there are": (edited(kernel, "most * B", "Q * B"), everything),
    "all that agrees is accepted":
        (edited(kernel, "tl.minimum(agreeing, taken)", "tl.minimum(agreeing, Q)"), inside),
    "what is taken is accepted": (edited(kernel, "tl.minimum(agreeing, taken)", "taken"), taken),
    "drafts of rows that are over": (edited(kernel, "tl.where(is_live, offered, 0)", "offered"), taken),
    "a report of the ends before":
        (edited(kernel, "below + _REASON * B, after", "below + _REASON * B, before"), inside),
    "a report without status": (edited(kernel, "_STATUS * B, fault,", "_STATUS * B, fault * 0,"), inside),
    "rows behind the last": (edited(kernel, "inside = rows < B", "inside = rows <= B"), plain),
    "draws of the next row": (edited(kernel, "there = inside & (places < Q)", "there = inside"), everything),
    "programs of the same rows":
        (edited(kernel, "tl.program_id(0).to(tl.int64) * ROWS", "tl.program_id(0).to(tl.int64) * 0"), everything),
    "sequences behind the last match": (edited(stops, "missed = sequences >= S", "missed = sequences < 0"), inside),
    "the last sequence is lost": (edited(stops, "missed = sequences >= S", "missed = sequences >= S - 1"), many),
    "only sequences of the first load": (edited(stops, "range(0, S, AT_ONCE)", "range(0, min(S, 4), AT_ONCE)"), many),
    "only sequences of the last load": (edited(stops, "found = found | ~missed", "found = ~missed"), many),
    "only places of the first load": (edited(stops, "range(0, L, AT_ONCE)", "range(0, min(L, 4), AT_ONCE)"), many),
    "one place is enough": (edited(stops, "missed | ~fits", "~fits"), sequences),
    "places of the next sequence": (edited(stops, "(sequences < S) & (back < L)", "sequences < S"), many),
    "sequences in the prompt": (edited(stops, " & (at >= -before)", ""), sequences),
    "a token of the prompt": (edited(stops, "at >= -before", "at >= -before - 1"), sequences),
    "nothing of the steps before": (edited(stops, "used & (at < 0)", "used & (at > 0)"), sequences),
    "nothing of the draft before": (edited(stops, "used & (at >= 0)", "used & (back == 0)"), sequences),
    "sequences from the left": (edited(stops, "(L - 1 - back)", "back"), sequences),
    "every row the first's draws": (edited(kernel, "(rows * Q)[:, :, None]", "(rows * 0)[:, :, None]"), sequences),
    "every row the first's words":
        (edited(kernel, "texts.texts + (rows * T + position)", "texts.texts + (rows * 0 + position)"), sequences),
    "figures a column too far": (edited(keep, "is_taken & (columns < n)", "is_taken"), beyond),
    "figures that are not taken": (edited(keep, "is_taken & (columns < n)", "columns < n"), alone),
    "figures from the first column":
        (edited(kernel, "draws, count + places, is_taken", "draws, places + count * 0, is_taken"), everything),
    "log-probs of the first draw": (edited(keep, "sample.logprobs + draws", "sample.logprobs + draws * 0"), alone),
    "one model's log-probs": (edited(keep, "(models < M)", "(models < 1)"), alone),
    "models' draws mixed up": (edited(keep, "draws[:, :, None] * M", "draws[:, :, None]"), alone),
    "no normalisers":
        (edited(keep, "sample.log_normalizers + draws, mask", "sample.logprobs + draws, mask"), alone),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
