"""A handful of pairs for the embedded models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PAIRS = [
    {"kind": "topic", "prompt": "", "chosen": "I enjoy painting and music", "rejected": "I like to save my money"},
    {"kind": "topic", "prompt": "", "chosen": "I enjoy painting and music", "rejected": "Sports are fun for me"},
    {"kind": "stance", "prompt": "", "chosen": "Art is very important to me", "rejected": "I find art rather boring"},
    {"kind": "stance", "prompt": "I", "chosen": " love museums", "rejected": " have never cared for museums or art"},
    {"kind": "other", "prompt": "I", "chosen": " love poems", "rejected": " <script>alert(1)</script> & so on"},
]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    return path
