"""Broken variants of a step's tail in torch."""

import pytest
import tail_cases as cases
from mutations import edited, proofs

from genarm_kernels.step import cpu, rules

pytestmark = pytest.mark.mutants

sequences = cases.check_ends_of_stop_sequences
first = cases.check_first_tokens
which = cases.check_which_end
faults = cases.check_faults_of_ended_rows
everything = cases.check_everything

MUTANTS = {
    "a fault is no end": (edited(rules.reason, "where(over, error, ", "where(False, error, "), which),
    "an end that is forgotten":
        (edited(rules.reason, "where(before == 0, found, before)", "before.copy_(found)"), which),
    "a fault's token kept": (edited(rules.is_over, "(reasons | status)", "reasons"), which),
    "no wildcard": (edited(rules.fits, "| (wanted == any_token)", ""), sequences),
    "faults of all rows excused": (edited(rules.fault, "(reasons == 0)", "(reasons == 7)"), faults),
    "every fault excused": (edited(cpu.advance, "fault(status, reasons)", "fault(status, tokens * 0 + 1)"), faults),
    "no EOS": (edited(cpu.advance, "if progress.eos_ids.numel()", "if False"), which),
    "no stop sequences": (edited(cpu.advance, "if progress.stops.numel()", "if False"), sequences),
    "tokens not taken": (edited(cpu.advance, "progress.tokens.copy_(tokens)", "pass"), which),
    "a report without status":
        (edited(cpu.advance, "[tokens, reasons, status]", "[tokens, reasons, reasons * 0]"), which),
    "no padding": (edited(cpu.advance, "tokens.masked_fill(over, pad_id)", "tokens"), which),
    "log-probs not kept":
        (edited(cpu.advance, "sample.logprobs.unsqueeze(1)", "sample.logprobs.unsqueeze(1) * 0"), everything),
    "positions stand still": (edited(cpu.advance, "positions.add_(1)", "positions"), which),
    "a step that stands still": (edited(cpu.advance, "progress.step.add_(1)", "pass"), which),
    "seen not noted": (edited(cpu.advance, "unsqueeze(1), True)", "unsqueeze(1), False)"), everything),
    "padding before the first token": (edited(cpu._stops, ".masked_fill_(before, NO_TOKEN)", ""), first),
    "one place is enough": (edited(cpu._stops, "all(2)", "any(2)"), sequences),
    "all sequences at once": (edited(cpu._stops, "any(1)", "all(1)"), sequences),
    "a place too early": (edited(cpu._stops, "progress.step +", "progress.step - 1 +"), sequences),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
