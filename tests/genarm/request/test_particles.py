"""What a call asks of particles: refused in one line that names it, whatever is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from genarm import GuidedDecoder, InvalidArgumentError
from genarm.request.particles import Particles, check_count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"particles": 0}, "particles is 0: pass an integer of at least 1"),
        ({"particles": 2.0}, "particles is 2.0"),
        ({"particles": "4"}, "particles is '4'"),
        ({"particles": 4, "resample_below": 1.5}, "resample_below is 1.5: pass a finite number from 0 to 1"),
        ({"particles": 4, "resample_below": torch.tensor(0.5)}, r"resample_below is tensor\(0.5000\)"),
        ({"particles": 4, "resample_every": 0}, "resample_every is 0"),
        ({"particles": 4, "length_bonus": math.inf}, "length_bonus is inf: pass a finite number"),
        ({"particles": 4, "temperature": [1.0, 0.0]}, "at temperature 0 all of a system are the same answer"),
        ({"particles": 4, "num_return_sequences": 2, "seed": [1, 2, 3, 4]}, r"pass an integer, or \[2\] int64"),
        ({"resample_below": 0.4}, "resample_below is about particles, and there are none"),
        ({"length_bonus": 1}, "length_bonus is about particles"),
        ({"terminal": len}, "terminal is about particles"),
        ({"return_particles": True}, "return_particles is about particles"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_request_is_refused_in_one_line(decoder: GuidedDecoder, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        decoder.generate([[5, 6], [7]], max_new_tokens=2, **options)
    assert "\n" not in str(caught.value)


def test_defaults_that_are_written_out_ask_for_nothing(decoder: GuidedDecoder) -> None:
    out = decoder.generate([[5, 6]], max_new_tokens=2, particles=None, resample_below=0.5, terminal=None)
    assert out.log_evidence is None and out.particles is None and out.log_normalizers is None


def test_a_gpu_takes_so_many_particles_of_one_prompt() -> None:
    check_count(Particles(4096), torch.device("cuda"))
    check_count(Particles(4097), torch.device("cpu"))
    with pytest.raises(InvalidArgumentError, match="particles is 4097: a GPU resamples at most 4096 of one prompt"):
        check_count(Particles(4097), torch.device("cuda"))
