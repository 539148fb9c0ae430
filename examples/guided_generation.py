"""Guided generation: the same prompt without guidance, and with one reward model at growing weights."""

from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS  # a base and LoRA reward models that ship with the library

decoder = GuidedDecoder.from_pretrained(BASE, reward_models={"art": REWARDS["art"]})

for weight in (0.0, 0.5, 1.0, 2.0):
    out = decoder.generate(
        "I really enjoy",
        weights={"art": weight},
        num_return_sequences=3,
        max_new_tokens=40,
        base_min_p=0.02,  # leaves out what the base finds 50 times less likely than its favourite
        seed=1,
    )
    print(f"art at weight {weight}:")
    for text in out.texts or []:
        print(f"  I really enjoy{text}")
