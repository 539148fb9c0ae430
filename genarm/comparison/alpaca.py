"""Answers in the form that `alpaca_eval --model_outputs` reads: one list of objects per method and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..runs.rows import Prompt
from .answers import Answer

FOLDER, FILE = "alpaca_eval", "model_outputs.json"


def instruction(prompt: Prompt) -> str:
    """What an answer is an answer to, in text: a prompt in text as it is, of a conversation the only message, or all
    of them under their roles."""
    if isinstance(prompt, str):
        return prompt
    messages = [message for message in prompt if isinstance(message, Mapping)]
    if len(messages) == 1:
        return str(messages[0].get("content", ""))
    return "\n\n".join(f"{message['role']}: {message.get('content', '')}" for message in messages)


def model_outputs(answers: Iterable[Answer], dataset: str) -> list[dict[str, Any]]:
    """AlpacaEval's rows: instruction, output, generator, dataset. A failed row has an empty output there."""
    return [
        {
            "instruction": instruction(answer.prompt),
            "output": answer.text,
            "generator": answer.method,
            "dataset": dataset,
        }
        for answer in answers
    ]


def write_model_outputs(answers: Iterable[Answer], folder: Path, dataset: str) -> list[Path]:
    """One `alpaca_eval/METHOD/seed-SEED/model_outputs.json` per method and seed, prompts in their order."""
    groups: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.method, answer.seed), []).append(answer)
    paths = []
    for (method, seed), own in groups.items():
        path = folder / FOLDER / method / f"seed-{seed}" / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = model_outputs(own, dataset)
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        paths.append(path)
    return paths
