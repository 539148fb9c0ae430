"""One small base for all tests of training."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from training_cases import save_base
from transformers.utils import logging as transformers_logging


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """The Trainer collects garbage whenever it starts, which over all of torch and TRL takes longer than such a run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("bases") / "small")


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """A run quiets transformers for the whole process: not for the tests after it."""
    verbosity = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(verbosity)
