"""How much mass the models' product has left in a row: its rules, whatever else is asked for."""

from collections.abc import Callable

import pytest
from normalizer_cases import CHECKS, INTERPRETED_CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], fast_device: str) -> None:
    check(fast_device)


@pytest.mark.interpreter
@pytest.mark.parametrize("check", INTERPRETED_CHECKS, ids=lambda check: check.__name__)
def test_the_kernels_pass(check: Callable[[], None]) -> None:
    check()
