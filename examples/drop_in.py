"""The drop-in: code that calls Hugging Face's `generate` gets guidance by three more arguments."""

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

import genarm
from genarm.embedded import BASE, REWARDS

model: Any = AutoModelForCausalLM.from_pretrained(BASE)
tokenizer = AutoTokenizer.from_pretrained(BASE)
inputs = tokenizer("I really enjoy", return_tensors="pt", return_token_type_ids=False)

plain = model.generate(**inputs, max_new_tokens=40, do_sample=False)
guided = model.generate(
    **inputs,
    max_new_tokens=40,
    do_sample=False,
    custom_generate=genarm.custom_generate,
    reward_models={"science": REWARDS["science"]},
    reward_weights={"science": 1.0},
)
print("plain: ", tokenizer.decode(plain[0], skip_special_tokens=True))
print("guided:", tokenizer.decode(guided[0], skip_special_tokens=True))
