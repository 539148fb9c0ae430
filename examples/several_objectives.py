"""Several objectives: one call, weights of its own for every request, and what the reward models make of the texts."""

from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

decoder = GuidedDecoder.from_pretrained(BASE, reward_models={name: REWARDS[name] for name in ("art", "risk")})

# A reward model that a request does not name has weight 0.
requests = [
    ("I really enjoy", {}),
    ("I really enjoy", {"art": 1.0}),
    ("I really enjoy", {"risk": 1.0}),
    ("I really enjoy", {"art": 0.7, "risk": 0.7}),
    ("On a free day I", {"art": 1.0}),
]
out = decoder.generate(
    [prompt for prompt, _ in requests],
    weights=[weights for _, weights in requests],
    max_new_tokens=40,
    base_min_p=0.02,
    seed=1,
    return_logprobs=True,
)
assert out.texts is not None and out.model_logprobs is not None
rewards = out.model_logprobs[:, :, 1:].nanmean(dim=1)  # [requests, reward models]: log p per token, NaN after the end
for (prompt, weights), text, (art, risk) in zip(requests, out.texts, rewards.tolist(), strict=True):
    print(f"{weights or 'unguided'}: {prompt}{text}")
    print(f"    mean reward in nats per token: art {art:.1f}, risk {risk:.1f}")
