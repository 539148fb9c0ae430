"""The core of the models that quote: a Llama of 0.4 million weights, trained on texts that quote themselves.

It does not begin at random. Its two layers are wired as the circuit that copies (an induction head: Olsson et al.,
2022): heads of the first look one token back and write down what stands there, heads of the second look for where the
present token was written down and give what stands at that place. So it quotes most words before the first step.
Training does the rest: names, edits, ends, and passages of any length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from bench.copy_text import BEGIN, END, PLAIN, VIVID, VOCABULARY, Texts, draw_texts

WIDTH, LAYERS, HEADS = 128, 2, 4
HEAD = WIDTH // HEADS
STEPS, TOKENS, RATE = 600, 1024, 2e-3
SHORTEST, LONGEST = 8, 160  # words of a passage
BEGINS, GROWS, LEARNT = 12.0, 1.03, 0.7  # passages grow longer once so much of them is quoted right
# Units of the residual stream: the word itself, the word before, and the last one, which is the same everywhere.
WORD, BEFORE, ALWAYS = slice(0, 60), slice(60, 120), WIDTH - 1
CONSTANT, FREQUENCIES = 8.0, 6
TWIN = 0.7  # how near a vivid word is to its plain twin, so that what stood behind the one is found behind the other
THETA = 10000.0


def new_core() -> LlamaForCausalLM:
    """The wired model, before training."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=WIDTH**-0.5,
        bos_token_id=BEGIN,
        eos_token_id=END,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END)
    with torch.no_grad():
        _wire(model)
    return model


def _wire(model: Any) -> None:
    """Add the circuit to weights drawn at random, made small where it stands."""
    embedding = model.model.embed_tokens.weight.normal_()
    embedding[VIVID] = TWIN * embedding[PLAIN] + (1 - TWIN**2) ** 0.5 * embedding[VIVID]
    embedding[:, WORD.stop :] *= 0.05
    embedding[:, ALWAYS] = CONSTANT
    scale = (WIDTH / (WORD.stop + CONSTANT**2)) ** 0.5  # of the first norm
    first, second = (layer.self_attn for layer in model.model.layers)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(0.1)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, name).weight.mul_(0.1)
    for head, distance in enumerate((1, 1, 2, 2)):
        _look_back(first, head, distance, CONSTANT * scale)
    units = torch.arange(30)
    for head in (0, 1):  # each carries half of the word
        first.v_proj.weight[head * HEAD + units, head * 30 + units] += 1.0
        first.o_proj.weight[BEFORE.start + head * 30 + units, head * HEAD + units] += 2.0 / scale
        second.v_proj.weight[head * HEAD + units, head * 30 + units] += 1.0
        second.o_proj.weight[head * 30 + units, head * HEAD + units] += 3.0
    for head in range(HEADS):
        rows, seen = slice(head * HEAD, (head + 1) * HEAD), 2.2 * torch.randn(HEAD, WORD.stop) / WORD.stop**0.5
        second.q_proj.weight[rows, WORD] += seen
        second.k_proj.weight[rows, BEFORE] += seen
    model.model.norm.weight.fill_(0.3)


def _look_back(attention: Any, head: int, distance: int, constant: float) -> None:
    """Queries and keys of the constant unit alone, whose rotations agree best so many tokens apart."""
    angles = distance * THETA ** (-2 * torch.arange(FREQUENCIES) / HEAD)
    size = (60.0 * HEAD**0.5 / FREQUENCIES) ** 0.5 / constant
    start = head * HEAD
    attention.q_proj.weight[start : start + FREQUENCIES, ALWAYS] += size
    attention.k_proj.weight[start : start + FREQUENCIES, ALWAYS] += size * angles.cos()
    start += HEAD // 2
    attention.k_proj.weight[start : start + FREQUENCIES, ALWAYS] += size * angles.sin()


def train_core(seed: int, steps: int) -> LlamaForCausalLM:
    """The cross-entropy of quotations. Passages grow longer as they come to be quoted right."""
    torch.manual_seed(seed)
    model, generator = new_core(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    longest, right = BEGINS, 0.0
    for step in range(steps):
        words = int(torch.randint(SHORTEST, int(longest) + 1, (), generator=generator))
        other = int(torch.randint(4, int(longest) - 3, (), generator=generator))
        texts = draw_texts(max(2, TOKENS // (2 * words + other)), words, other, generator)
        logits, wanted = quoted(model, texts), texts.quotations
        update(model, optimiser, F.cross_entropy(logits.flatten(0, 1), wanted.flatten()), RATE, step, steps)
        right += 0.1 * (float((logits.argmax(-1) == wanted).float().mean()) - right)
        longest = min(LONGEST, longest * GROWS) if right > LEARNT else longest
    return model.eval()


def quoted(model: Any, texts: Texts) -> Tensor:
    """Logits [B, n + 1, V] of the quotation's tokens."""
    ids = torch.cat([texts.prompts, texts.quotations[:, :-1]], 1)
    hidden = model.model(ids).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, texts.prompts.shape[1] - 1 :])
    return logits


def update(model: Any, optimiser: Any, loss: Tensor, rate: float, step: int, steps: int) -> None:
    """One step of a rate that rises for 30 steps and falls to nothing over the last third of them."""
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / 30, 3 * (steps - step) / steps)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
