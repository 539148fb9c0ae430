"""The group pass in Triton's interpreter: both ways through a group, any split of a row, and mutants of them."""

from collections.abc import Callable

import group_cases as cases
import numpy as np
import pytest
import torch
from filter_cases import groups_have_the_mass_of_what_is_left_at_its_temperature
from kernel_cases import assert_same_bits, make_logits, make_weights
from mutations import Mutation, assert_killed, edited
from torch import Tensor
from triton.runtime import interpreter

from genarm_kernels import guided_sample
from genarm_kernels.sampling import combine, draw, groups

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
new_empty = Tensor.new_empty


@pytest.fixture(autouse=True)
def what_is_not_written_is_7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(7))


def ids_read(monkeypatch: pytest.MonkeyPatch, z: Tensor) -> list[int]:
    """Fills as kernels run: the elements of z that they load."""
    seen: list[int] = []
    load = interpreter._interpreter.load

    def recorded(pointers: np.ndarray, mask: np.ndarray, *rest: object) -> object:
        places = (pointers[mask].astype(np.int64) - z.data_ptr()) // z.element_size()
        seen.extend(places[(places >= 0) & (places < z.numel())].tolist())
        return load(pointers, mask, *rest)

    module = type("recording", (), {"load": staticmethod(recorded)})
    for name in dir(interpreter._interpreter):
        if name != "load" and not name.startswith("__"):
            setattr(module, name, getattr(interpreter._interpreter, name))
    monkeypatch.setattr(interpreter, "_interpreter", module)
    return seen


def a_model_of_weight_0_is_not_read() -> None:
    for logits in (make_logits(1, 2100, 2), [cases.unaligned(z) for z in make_logits(1, 2100, 2)]):
        with pytest.MonkeyPatch.context() as patch:
            seen = ids_read(patch, logits[1])
            guided_sample(logits, [1.0, 0.0], top_k=3)
        assert not seen


def a_model_is_read_once_and_its_winning_group_again() -> None:
    logits = make_logits(1, 2100, 2)
    with pytest.MonkeyPatch.context() as patch:
        seen = ids_read(patch, logits[1])
        token = int(guided_sample(logits, [1.0, 0.5]).tokens)
    counts = torch.bincount(torch.tensor(seen), minlength=2100)
    assert len(counts) == 2100
    again = torch.arange(2100) // 1024 == token // 1024
    assert counts[~again].unique().tolist() == [1] and counts[again].unique().tolist() == [2]


def a_row_may_be_split_in_any_way() -> None:
    """Whatever groups a program takes: the same bits, every group once."""
    logits, weights = make_logits(2, 3500, 2), make_weights(2, 2)
    logits[1][1, 7] = -torch.inf
    logits[0][1, 1500] = -torch.inf
    samples = []
    for count in (1, 2, 3, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(combine, "groups_a_program", lambda B, G, count=count: count)
            samples.append(guided_sample(logits, weights, top_p=0.9, return_logprobs=True))
            with_rules = torch.full((2, 2100), -torch.inf)
            with_rules[:, [3, 1500, 2099]] = 1.0
            logprobs = guided_sample([with_rules], [1.0], return_logprobs=True).logprobs
            assert torch.allclose(logprobs, torch.full((2,), 1 / 3).log(), atol=1e-5)
    for other in samples[1:]:
        assert_same_bits(samples[0], other)


LOCAL = (
    a_model_of_weight_0_is_not_read,
    a_model_is_read_once_and_its_winning_group_again,
    a_row_may_be_split_in_any_way,
)


@pytest.mark.parametrize("check", [*cases.CHECKS, *LOCAL], ids=lambda check: check.__name__)
def test_check(check: Callable[[], None]) -> None:
    check()


def test_large_batches_take_several_groups_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert combine.groups_a_program(1, 1024) == combine.groups_a_program(64, 64) == 1
    assert combine.groups_a_program(64, 128) == 2
    assert combine.groups_a_program(1000, 1024) == combine.MOST_GROUPS
    logits = make_logits(3, 3500, 1)
    alone = guided_sample(logits, [1.0], return_logprobs=True)
    monkeypatch.setattr(combine, "PROGRAMS", 5)
    assert combine.groups_a_program(3, 4) == 2
    assert_same_bits(guided_sample(logits, [1.0], return_logprobs=True), alone)


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "+inf under a negative weight not noticed": (
        edited(groups.load_weights, "negative = negative | (weight < 0.0)", "negative = negative | (weight != weight)"),
        cases.infinity_is_named_whatever_the_sign_of_its_weight,
    ),
    "a negative weight seen in the last model only": (
        edited(groups.load_weights, "negative = negative | (weight < 0.0)", "negative = weight < 0.0"),
        cases.infinity_is_named_whatever_the_sign_of_its_weight,
    ),
    "NaN not noticed in the plain way": (
        edited(combine.reduce_plainly, "return bad | (total != total)", "return bad"),
        cases.nan_is_named_in_any_group,
    ),
    "a bad value hidden by the base's filter": (
        edited(combine.reduce_plainly, "bad = bad | (all_total != all_total)", "bad = bad"),
        cases.a_base_filter_hides_no_bad_value,
    ),
    "the careful way skipped for the last short group": (
        edited(combine.group_kernel, "careful = True", "careful = False"),
        cases.every_group_is_summed_once,
    ),
    "the careful way skipped for whole groups": (
        edited(combine.group_kernel, "        if careful:", "        if careful & ((g + 1) * GROUP > V):"),
        cases.nan_is_named_in_any_group,
    ),
    "what the first ids showed is forgotten": (
        edited(combine.reduce_carefully, "bits = bits | found", "bits = found"),
        cases.nan_is_named_in_any_group,
    ),
    "the base's filter does not make it examined": (
        edited(combine.combine, "used | (base_threshold + zeros > -INFINITY)", "used"),
        cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own,
    ),
    "the base's mask ignored at weight 0": (
        edited(combine.combine, "scores = tl.where(z == -INFINITY, z, scores)", "scores = scores"),
        cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own,
    ),
    "the base's filter left out of the plain way": (
        edited(combine.reduce_plainly, "base >= base_threshold", "base >= -INFINITY"),
        cases.scores_are_those_of_their_ids,
    ),
    "a group summed with its neighbour's ids": (
        edited(
            combine.reduce_plainly,
            "logits[m] + row * strides[m], g * GROUP, weights[m]",
            "logits[m] + row * strides[m], (g ^ 1) * GROUP, weights[m]",
        ),
        cases.scores_are_those_of_their_ids,
    ),
    "a group's scores stored at its neighbour's ids": (
        edited(
            combine.reduce_plainly,
            "aligned(scores + row * (G * GROUP), g * GROUP",
            "aligned(scores + row * (G * GROUP), (g ^ 1) * GROUP",
        ),
        groups_have_the_mass_of_what_is_left_at_its_temperature,
    ),
    "another row's bias": (
        edited(combine.group_kernel, "bias += row * bias_stride", "bias += 2"),
        cases.scores_are_those_of_their_ids,
    ),
    "narrow loads of shifted ids": (
        edited(groups.load_group, "first + LANE * tl.arange(0, COUNT)", "first + 1 + LANE * tl.arange(0, COUNT)"),
        cases.alignment_changes_no_bit,
    ),
    "narrow loads joined in another order": (
        edited(groups.join_halves, "tl.join(parts[i], parts[i + HALF])", "tl.join(parts[2 * i], parts[2 * i + 1])"),
        cases.alignment_changes_no_bit,
    ),
    "a model of weight 0 read in the plain way": (
        edited(combine.reduce_plainly, "weights[m], m == 0 or LOGPROBS,", "weights[m], True,"),
        a_model_of_weight_0_is_not_read,
    ),
    "a model of weight 0 read in the careful way": (
        edited(combine.combine, "mask if m == 0 else mask & examined", "mask"),
        a_model_of_weight_0_is_not_read,
    ),
    "every group the careful way too": (
        edited(combine.group_kernel, "        if careful:", "        if careful | (row == row):"),
        a_model_is_read_once_and_its_winning_group_again,
    ),
    "the last group of a program left out": (
        edited(combine.group_kernel, "tl.minimum(first + count, G)", "tl.minimum(first + count - (count > 1), G)"),
        a_row_may_be_split_in_any_way,
    ),
    "the last program left out": (
        edited(combine.reduce_groups, "-(-G // count)", "max(1, G // count)"),
        a_row_may_be_split_in_any_way,
    ),
    "programs that start at each other's groups": (
        edited(combine.group_kernel, "tl.program_id(1) * count", "tl.program_id(1)"),
        a_row_may_be_split_in_any_way,
    ),
    "greedy log-probs after the base's filter": (
        edited(draw.draw_kernel, "row_sums = tl.where(greedy, all_sums, row_sums)", "row_sums = row_sums"),
        cases.greedy_log_probs_are_those_before_the_base_s_filter,
    ),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    assert_killed(monkeypatch, mutate, check)
