"""One small base, and runs on it that tests share."""

import gc

import pytest
from training_cases import run_settings, save_base, write_pairs

from genarm.training.run import train


@pytest.fixture(autouse=True, scope="module")
def little_to_collect():
    """The Trainer collects garbage whenever it starts, which over all of torch and TRL takes longer than such a run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def always_loud(loud):
    """Every test here trains."""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("bases") / "small")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 20)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory):
    """Seven pairs, which micro batches do not divide."""
    return write_pairs(tmp_path_factory.mktemp("data") / "held_out.jsonl", 7, seed=5)


@pytest.fixture(scope="session")
def trained(base, data, tmp_path_factory):
    """Makes a run of each settings once, for tests that leave it as it is: its folder and its record."""
    made = {}

    def run(**changes):
        key = repr(sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("runs") / "out"
            made[key] = folder, train(run_settings(base, data, **changes), folder)
        return made[key]

    return run
