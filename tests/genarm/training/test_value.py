"""Value heads: their targets against a double loop, what training leaves, and that VAS decodes by it."""

from __future__ import annotations

import json

import pytest
import torch
from training_cases import run_settings, write_pairs

from genarm import GuidedDecoder, methods
from genarm.cli.train_report import summary
from genarm.errors import InvalidArgumentError
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.reading import PairReading
from genarm.scalars import scalar
from genarm.training.answers import ScoredAnswer
from genarm.training.prompts import load_prompts
from genarm.training.run import train
from genarm.training.value import AnswerCollator, accuracy_of_values, lambda_returns
from genarm.training.verdict import remarks


def literal_return(values: list[float], reward: float, t: int, decay: float) -> float:
    """(1 − λ) Σ_n λ^(n−1) G_t:t+n + λ^(T−t−1) G_t, where G_t:t+n = V_t+n, and G_t = r, of an answer that ends at T."""
    last = len(values) - 1
    if t == last:
        return reward
    total = 0.0
    for n in range(1, last - t):
        total += (1 - decay) * decay ** (n - 1) * values[t + n]
    return total + decay ** (last - t - 1) * reward


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_targets_are_lambda_returns(decay: float) -> None:
    lengths = [1, 4, 6, 2]
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    found = lambda_returns(values, rewards, torch.tensor(lengths) - 1, decay)
    for row, length in enumerate(lengths):
        own = values[row, :length].tolist()
        expected = [literal_return(own, float(rewards[row]), t, decay) for t in range(length)]
        assert found[row, :length].tolist() == pytest.approx(expected, abs=1e-12)


def test_states_begin_at_the_end_of_the_prompt() -> None:
    batch = AnswerCollator(0)(
        [ScoredAnswer(ids=[1, 5, 6, 2], prompt=2, reward=1.5), ScoredAnswer(ids=[1, 7], prompt=1, reward=-1.0)]
    )
    assert batch["states"].tolist() == [[False, True, True, True], [True, True, False, False]]
    assert batch["ends"].tolist() == [3, 1] and batch["rewards"].tolist() == [1.5, -1.0]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_figures_are_of_all_pieces() -> None:
    pieces = [torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.0, 2.0]]), torch.tensor([[3.0], [3.0], [1.0]])]
    found = accuracy_of_values(pieces)
    assert found == pytest.approx({"loss": 0.5 / 3, "mse": 5 / 3, "variance": 2 / 3, "correlation": 0.5})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": f"About {number}, say:"} for number in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def judge(trained):
    return str(trained(kind="trajectory-rm")[0])


VALUE = {"kind": "value", "samples": 3, "new_tokens": 6, "eval_share": 0.3, "batch_size": 8, "max_steps": 20}


@pytest.fixture(scope="module")
def value_head(base, prompts, judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("value") / "out"
    said: list[str] = []
    settings = run_settings(base, prompts, trajectory_rm=judge, eval_every=10, **VALUE)
    return folder, train(settings, folder, say=said.append), said


def test_training_comes_nearer_to_rewards_known(value_head) -> None:
    folder, record, said = value_head
    measured = [logs["eval_mse"] for logs in record["history"] if "eval_mse" in logs]
    assert measured[-1] < measured[0] and record["metrics"]["eval_mse"] == measured[-1]
    first, *_, last = [logs["loss"] for logs in record["history"] if "loss" in logs]
    assert last < 0.7 * first
    assert -1 <= record["metrics"]["eval_correlation"] <= 1
    assert any("answers of" in text and "mean reward" in text for text in said)
    counts = record["data"]["train"]
    assert counts["answers"] == 3 * counts["prompts"]
    line = summary(record, folder)
    assert f"20 steps on {counts['answers']} answers" in line and "held-out answers, mean squared error" in line
    assert f"answers of the base to {counts['prompts']} prompts" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_trained_folder_is_what_vas_decodes_by(value_head, base, prompts) -> None:
    folder, _, _ = value_head
    decoder = GuidedDecoder.from_pretrained(base, device="cpu")
    ids = load_prompts(run_settings(base, prompts, trajectory_rm="none", **VALUE), decoder.tokenizer).train[:1]
    settings = {"max_new_tokens": 4, "temperature": 0.0, "candidates": 6, "eos_token_id": []}
    guided = methods["vas"].generate(decoder, ids, value_head=str(folder), strength=50.0, **settings)
    plain = methods["vas"].generate(decoder, ids, value_head=str(folder), strength=0.0, **settings)
    assert float(guided.scores[0]) > float(plain.scores[0])
    assert guided.tokens[0].tolist() != plain.tokens[0].tolist()
    assert scalar(decoder, str(folder), "value_head").models[0].vocab_size == 1


def test_a_complete_run_draws_nothing_again(value_head, base, prompts, judge) -> None:
    folder, record, _ = value_head
    said: list[str] = []
    settings = run_settings(base, prompts, trajectory_rm=judge, eval_every=10, **VALUE)
    assert train(settings, folder, say=said.append) == record
    assert said == [f"{folder} is complete already"]
    with pytest.raises(InvalidArgumentError, match="another samples"):
        train(run_settings(base, prompts, trajectory_rm=judge, **{**VALUE, "samples": 2}), folder)


def test_prompts_are_read_from_rows_of_their_own_and_from_pairs(base, prompts, tmp_path) -> None:
    tokenizer = pair_tokenizer(base)

    def read(data: str, **changes) -> list[list[int]]:
        chosen = {**VALUE, "eval_share": 0.0, "samples": 2, "trajectory_rm": "none", **changes}
        return load_prompts(run_settings(base, data, **chosen), tokenizer).train

    start = tokenizer("About 3, say:").input_ids
    own, pairs = read(prompts), read(write_pairs(tmp_path / "pairs.jsonl", 12))
    assert own[6] == own[7] == start and own == pairs and len(own) == 24
    (tmp_path / "other.jsonl").write_text('{"question": "Who?"}\n', encoding="utf-8")
    templated = read(str(tmp_path / "other.jsonl"), reading=PairReading(prompt_template="Q: {question}\nA:"))
    assert templated[0] == tokenizer("Q: Who?\nA:").input_ids


def test_a_value_head_needs_a_reward(base, prompts, judge, tmp_path) -> None:
    with pytest.raises(InvalidArgumentError, match="name one"):
        train(run_settings(base, prompts, **VALUE), tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="data weights"):
        train(run_settings(base, prompts, trajectory_rm=judge, data_weights=(2.0,), **VALUE), tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="not arm"):
        train(run_settings(base, prompts, trajectory_rm=judge), tmp_path / "out")


def test_a_head_that_a_constant_would_do_as_well_as_is_told_of() -> None:
    record = {
        "metrics": {"steps": 5, "eval_mse": 2.0, "eval_variance": 1.0},
        "history": [],
        "settings": {"epochs": 1.0, "learning_rate": 0.1, "warmup": 0.1},
        "data": {"held out": {"answers": 3}},
    }
    assert "no more of held-out rewards than their mean" in remarks(record)[0]
    assert not remarks({**record, "metrics": {**record["metrics"], "eval_mse": 0.5}})
