"""The tokenizer and the base model of the embedded set: a byte-level BPE and a Llama of 5.6 M parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from genarm.preferences.collate import StatementCollator
from genarm.preferences.encoding import encode_response

VOCABULARY = 4096
CONTEXT = 4096
SPECIAL = ("<s>", "</s>", "<pad>")


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX), where a training step took 0.155 s, not 0.281 s."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch do not tell
    return bool(capabilities.get("amx_bf16", False))


def train_tokenizer(statements: list[str], directory: Path, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerBase:
    """Byte-level BPE with `<s>` in front of every text; any text, special-looking ones too, decodes to itself."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        statements,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    ).save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def base_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def encode_statements(tokenizer: PreTrainedTokenizerBase, statements: list[str]) -> list[dict[str, list[int]]]:
    return [{"input_ids": encode_response(tokenizer, "", statement)[0]} for statement in statements]


def base_arguments(work: Path, seed: int, epochs: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=1.5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=300,
        weight_decay=0.1,
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=300,
        report_to="none",
        seed=seed,
        use_cpu=True,
        bf16=bf16_is_fast(),
        dataloader_pin_memory=False,
    )


def train_base(
    tokenizer: PreTrainedTokenizerBase, train: list[str], test: list[str], directory: Path, arguments: TrainingArguments
) -> None:
    """Train from scratch on `train`, report the loss on `test` after each epoch, save as bf16 safetensors."""
    torch.manual_seed(arguments.seed)
    # on sequences of twenty tokens eager attention makes a step 1.6 times as fast as sdpa does
    config = base_config(tokenizer)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=encode_statements(tokenizer, train),
        eval_dataset=encode_statements(tokenizer, test),
        data_collator=StatementCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    ).train()
    save_base(model, directory)


def save_base(model: LlamaForCausalLM, directory: Path) -> None:
    """bf16 weights, and the config without what belonged to the training run alone."""
    config = model.config
    config.use_cache, config.attention_dropout = True, 0.0
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)


def load_base(directory: Path) -> Any:
    """The shipped weights (bf16-rounded), computing in fp32: what every figure is measured on."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def loss_per_token(model: Any, items: list[dict[str, list[int]]], pad_token_id: int, batch: int = 128) -> float:
    """Mean negative log-likelihood in nats over all tokens after `<s>`, `</s>` included."""
    items = sorted(items, key=lambda item: len(item["input_ids"]))
    collate, total, count = StatementCollator(pad_token_id), 0.0, 0
    for start in range(0, len(items), batch):
        inputs = collate(items[start : start + batch])
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        total += float(model(**inputs).loss) * tokens
        count += tokens
    loss = total / count
    if not math.isfinite(loss):
        raise ValueError("the base model's test loss is not finite")
    return loss
