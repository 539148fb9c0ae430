"""How much mass the models' product has left in a row: its rules, whatever else is asked for."""

from collections.abc import Callable

import pytest
from normalizer_cases import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], cpu: str) -> None:
    check(cpu)
