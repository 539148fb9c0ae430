"""A reward model of your own, trained on the pairs beside this file, then a guide: half a minute on two cores.

The command line does the same with `genarm train arm`.
"""

import argparse
import tempfile
from pathlib import Path

from genarm import GuidedDecoder
from genarm.embedded import BASE
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

PAIRS = Path(__file__).parent / "preferences"

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--output", type=Path, help="where the reward model goes; by default it is not kept")
arguments.add_argument("--max-steps", type=int, default=60)
options = arguments.parse_args()

with tempfile.TemporaryDirectory() as temporary:
    folder = options.output or Path(temporary) / "music"
    settings = TrainingSettings(
        kind="arm",
        base=str(BASE),
        data=str(PAIRS / "train.jsonl"),
        eval_data=str(PAIRS / "held-out.jsonl"),
        objective="music",
        learning_rate=5e-3,  # small bases want high rates; a 7B model takes 5e-4
        batch_size=8,
        max_steps=options.max_steps,
    )
    metrics = train(settings, folder, say=print)["metrics"]
    print(f"orders {metrics['eval_accuracy']:.1%} of the held-out pairs right")

    decoder = GuidedDecoder.from_pretrained(BASE, reward_models={"music": folder})
    out = decoder.generate(
        "I really enjoy", weights={"music": 1.0}, num_return_sequences=3, max_new_tokens=40, base_min_p=0.02, seed=2
    )
    for text in out.texts or []:
        print(f"I really enjoy{text}")
