"""Broken variants of a step's tail with drafts in torch."""

import accept_cases as cases
import pytest
from mutations import edited, proofs

from genarm_kernels.step import cpu_accept as cpu

pytestmark = pytest.mark.mutants

everything = cases.check_everything
taken = cases.check_what_is_taken
inside = cases.check_ends_inside
sequences = cases.check_stop_sequences
many = cases.check_long_and_many

MUTANTS = {
    "drafts behind those proposed count": (edited(cpu.accept, ".amin(1).minimum(proposed)", ".amin(1)"), taken),
    "whatever differs is passed over":
        (edited(cpu.accept, "torch.where(is_drawn, end, of_drafts)", "torch.where(is_drawn | True, end, of_drafts)"),
         taken),
    "an end inside is passed over":
        (edited(cpu.accept, "torch.where(ends == GOING_ON,", "torch.where(ends >= GOING_ON,"), inside),
    "limits are not kept": (edited(cpu.accept, ".minimum(room.sub_(1).clamp_(min=0))", ""), taken),
    "a limit is a token too far": (edited(cpu.accept, "room.sub_(1)", "room"), taken),
    "full rows go on": (edited(cpu.accept, "(room <= 0) | ", ""), taken),
    "ended rows go on": (edited(cpu.accept, " | (texts.reasons != GOING_ON)", ""), inside),
    "a fault is taken": (edited(cpu.accept, ".sub_(fault.sign())", ""), inside),
    "idle rows take one":
        (edited(cpu.accept, ".sub_(fault.sign()).masked_fill_(is_idle, 0)", ".sub_(fault.sign())"), taken),
    "a token too early": (edited(cpu.accept, "(taken - 1).clamp_", "(taken - 2).clamp_"), taken),
    "tokens of rows that take none":
        (edited(cpu.accept, "taken == 0, texts.tokens", "taken < 0, texts.tokens"), inside),
    "an end is forgotten":
        (edited(cpu.accept, "torch.where(is_idle, texts", "torch.where(is_idle & False, texts"), inside),
    "positions stand still": (edited(cpu.accept, "texts.positions.add_(taken)", "pass"), taken),
    "counts stand still": (edited(cpu.accept, "texts.counts.add_(taken)", "pass"), taken),
    "a report without draws": (edited(cpu.accept, "texts.report[:Q] = tokens.t()", "pass"), taken),
    "what is taken is accepted": (edited(cpu.accept, "agreeing.minimum(taken)", "taken"), taken),
    "all that agrees is accepted": (edited(cpu.accept, "agreeing.minimum(taken)", "agreeing"), inside),
    "drafts of rows that are over": (edited(cpu.accept, "proposed.masked_fill(is_idle, 0)", "proposed"), taken),
    "faults of rows that are over": (edited(cpu.accept, "fault.masked_fill_(is_idle, 0)", "pass"), inside),
    "no EOS": (edited(cpu._ends, "if texts.eos_ids.numel()", "if False"), inside),
    "no stop sequences": (edited(cpu._ends, "if texts.stops.numel()", "if False"), sequences),
    "faults are no end": (edited(cpu._ends, "is_over(texts.reasons.unsqueeze(1), status)", "status > 999"), inside),
    "sequences in the prompt": (edited(cpu._stops, ".masked_fill_(before, NO_TOKEN)", ""), sequences),
    "a token of the prompt":
        (edited(cpu._stops, "(texts.positions - texts.counts)", "(texts.positions - texts.counts - 1)"), sequences),
    "one place is enough": (edited(cpu._stops, "all(3)", "any(3)"), sequences),
    "all sequences at once": (edited(cpu._stops, "any(2)", "all(2)"), sequences),
    "a place too early":
        (edited(cpu._stops, "back = columns.unsqueeze(2) +", "back = columns.unsqueeze(2) - 1 +"), sequences),
    "seen although not taken":
        (edited(cpu._keep, "torch.where(is_taken, tokens, first)", "tokens"), everything),
    "seen although none is taken": (edited(cpu._keep, "| is_taken[:, :1]", "| True"), everything),
    "seen not noted": (edited(cpu._keep, " | is_taken[:, :1]", ""), everything),
    "log-probs from the first column":
        (edited(cpu._keep, "columns = texts.counts.unsqueeze(1) + places", "columns = places.expand(B, Q)"),
         everything),
    "normalisers from the first column":
        (edited(cpu._keep, "scatter_(1, texts.counts.unsqueeze(1) + places,", "scatter_(1, places.expand(B, Q),"),
         everything),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
