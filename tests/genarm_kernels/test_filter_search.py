"""Thresholds on rows that make them hard, on a CPU: every row under every setting, against the oracle."""

import filter_cases as cases
import pytest


@pytest.mark.parametrize("V", [1500, 9001])
@pytest.mark.parametrize("turn", range(len(cases.SETTINGS)))
def test_hard_rows_each_with_a_setting_of_its_own_keep_the_oracle_s_ids(turn: int, V: int) -> None:
    rows = cases.hard_rows(V)
    cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, turn))


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check) -> None:
    check()
