"""Byte-level tokenizers with the special tokens and chat templates of the families in use, made in memory."""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA3 = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
ZEPHYR = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
PHI3 = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""
# earlier turns lose their thoughts, as Qwen3 has it
THINKING = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# the generation prompt opens a thought that a whole conversation does not have, as DeepSeek-R1 has it
OPENING = """{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}\
{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>
{% endif %}"""
# earlier turns are numbered from the end, so that each answer rewrites them all
REWRITING = """{% for m in messages %}<|im_start|>{{ loop.revindex }} {{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>1 {% endif %}"""

# One token per byte and the ids that the models of `families` have.
BYTE_SPECIALS = ("<pad>", "<bos>", "<eos>")
BYTE_VOCAB = len(BYTE_SPECIALS) + 256
BYTE_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a family of models writes conversations. ``adds_bos`` is whether its tokenizer does by itself."""

    template: str
    eos: str
    bos: str | None = None
    adds_bos: bool = False
    others: tuple[str, ...] = ()
    extra_eos: tuple[str, ...] = ()


LLAMA_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
FAMILIES = {
    "chatml": Family(CHATML, "<|im_end|>", others=("<|im_start|>", "<|endoftext|>")),
    "chatml, another eos": Family(
        CHATML, "<|endoftext|>", None, False, ("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)
    ),
    "llama-3": Family(LLAMA3, "<|eot_id|>", "<|begin_of_text|>", True, LLAMA_HEADERS),
    "llama-3, another eos": Family(
        LLAMA3, "<|end_of_text|>", "<|begin_of_text|>", True, (*LLAMA_HEADERS, "<|eot_id|>"), ("<|eot_id|>",)
    ),
    "zephyr": Family(ZEPHYR, "</s>", "<s>", True, ROLES),
    "phi-3": Family(PHI3, "<|endoftext|>", "<s>", True, (*ROLES, "<|end|>"), ("<|end|>",)),
    "thinking": Family(THINKING, "<|im_end|>", others=("<|im_start|>", "<|endoftext|>")),
    "opening": Family(OPENING, "</s>", "<s>", True, ROLES),
}


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Single bytes and the family's special tokens."""
    specials = list(dict.fromkeys([token for token in (family.bos, family.eos, *family.others) if token]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    if family.adds_bos:
        begins = [(family.bos, tokenizer.token_to_id(family.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=begins)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, clean_up_tokenization_spaces=False
    )
    made.chat_template = family.template
    return made


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after a BOS that the tokenizer adds itself."""
    tokens = [*BYTE_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    pad, bos, eos = BYTE_SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=bos, eos_token=eos, chat_template=BYTE_TEMPLATE
    )
