"""Scoring: how likely given answers are under the guided distribution, and which of them guidance moves up."""

from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

decoder = GuidedDecoder.from_pretrained(BASE, reward_models={name: REWARDS[name] for name in ("art", "agreeableness")})

prompt = "I really enjoy"
answers = [" helping others", " going to art museums", " solving mathematical problems"]
plain = decoder.score(prompt, answers, weights={}).totals
print(f"{'log p of the answer':32} plain  guided, less plain")
for name in decoder.reward_names:
    guided = decoder.score(prompt, answers, weights={name: 1.0}).totals
    for answer, before, after in zip(answers, plain.tolist(), guided.tolist(), strict=True):
        print(f"{answer:32} {before:5.1f}  by {name}: {after - before:+.1f}")
