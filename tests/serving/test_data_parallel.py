"""A server with a copy of the models in each of two engines, between which it shares its requests out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from served_cases import PROMPTS, TOKENS, WEIGHTS, expected, extra
from served_process import serving


def test_two_copies_decode_the_embedded_engines_tokens(wide: Path, tmp_path: Path) -> None:
    weights = [WEIGHTS[index % len(WEIGHTS)] for index in range(len(PROMPTS))]
    cases = list(zip(PROMPTS, weights, strict=True))
    with serving(wide, tmp_path, "--data-parallel-size", "2") as server:
        with ThreadPoolExecutor(len(cases)) as pool:
            answers = list(pool.map(lambda case: server.complete(case[0], numbers=extra(case[1])).choices[0], cases))
        drawn = server.metric("generation_tokens_total")
    prompts = [one.prompt_token_ids for one in answers]
    assert [one.token_ids for one in answers] == expected(wide, prompts, weights, TOKENS)
    assert len(drawn) == 2 and all(drawn), "one of the engines did nothing"
