"""The embedded models: a byte-level BPE, a Llama of 5.6 M parameters, and LoRA reward models with the GenARM loss."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
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
    set_seed,
)

from genarm.models.activation import Activation, write_activation
from genarm.models.asleep import SleepingAdapter, put_on
from genarm.preferences.collate import PairCollator, StatementCollator
from genarm.preferences.encoding import EncodedPair, encode_pairs, encode_response
from genarm.preferences.pairs import PreferencePair
from genarm.preferences.texts import shared_length
from genarm.training.arm import ArmTrainer

OBJECTIVES = {
    "art": "interest-in-art",
    "science": "interest-in-science",
    "agreeableness": "agreeableness",
    "risk": "risk-seeking",
}
VOCABULARY = 4096
CONTEXT = 4096
SPECIAL = ("<s>", "</s>", "<pad>")
BETA = 0.1
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER_SETTINGS = {
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha", "lora_dropout", "bias"),
    *("target_modules", "fan_in_fan_out", "use_rslora", "use_dora", "modules_to_save"),
}


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX), where a training step took 0.155 s, not 0.281 s."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch do not tell
    return bool(capabilities.get("amx_bf16", False))


def training_arguments(work: Path, seed: int, epochs: float, **own: Any) -> TrainingArguments:
    """What every training run here shares, and its own settings."""
    shared = {"lr_scheduler_type": "cosine", "save_strategy": "no", "report_to": "none", "dataloader_pin_memory": False}
    device = {"use_cpu": True, "bf16": bf16_is_fast()}
    return TrainingArguments(output_dir=str(work), num_train_epochs=epochs, seed=seed, **{**shared, **device, **own})


def base_arguments(work: Path, seed: int, epochs: float) -> TrainingArguments:
    return training_arguments(
        work,
        seed,
        epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=1.5e-3,
        warmup_steps=300,
        weight_decay=0.1,
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        logging_steps=300,
    )


def arm_arguments(work: Path, seed: int, epochs: float) -> TrainingArguments:
    return training_arguments(
        work,
        seed,
        epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        warmup_steps=20,
        logging_steps=20,
        remove_unused_columns=False,
    )


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


def base_config(tokenizer: PreTrainedTokenizerBase, hidden: int = 256, layers: int = 6, heads: int = 4) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def encode_statements(tokenizer: PreTrainedTokenizerBase, statements: list[str]) -> list[dict[str, list[int]]]:
    return [{"input_ids": encode_response(tokenizer, "", statement)[0]} for statement in statements]


def train_base(
    tokenizer: PreTrainedTokenizerBase,
    train: list[str],
    test: list[str],
    directory: Path,
    arguments: TrainingArguments,
    config: LlamaConfig | None = None,
) -> None:
    """Train from scratch on `train`, report the loss on `test` after each epoch, save as bf16 safetensors."""
    torch.manual_seed(arguments.seed)
    # On sequences of twenty tokens eager attention makes a step 1.6 times as fast as sdpa does.
    config = base_config(tokenizer) if config is None else config
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


def beginning_as_prompt(pair: EncodedPair) -> EncodedPair:
    """The tokens that both responses begin with as a part of the prompt. They count for neither, so that the loss of an
    ordinary adapter stays what it was."""
    shared = shared_length(pair["chosen_ids"][:-1], pair["rejected_ids"][:-1])
    return {
        **pair,
        "prompt_ids": pair["prompt_ids"] + pair["chosen_ids"][:shared],
        "chosen_ids": pair["chosen_ids"][shared:],
        "rejected_ids": pair["rejected_ids"][shared:],
    }


def train_arm(
    base_directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[PreferencePair],
    directory: Path,
    arguments: TrainingArguments,
    activation: Activation | None = None,
) -> None:
    """Train one adapter on the base as it ships (bf16-rounded) and save it as bf16 safetensors. An activated one sleeps
    on what both statements of a pair begin with, as there is no other prompt."""
    set_seed(arguments.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules=LINEARS, inference_mode=False
    )
    model = get_peft_model(load_base(base_directory), config)
    encoded = encode_pairs(tokenizer, pairs).pairs
    ArmTrainer(
        model=model,
        args=arguments,
        beta=BETA,
        asleep=None if activation is None else SleepingAdapter(model, activation),
        train_dataset=encoded if activation is None else [beginning_as_prompt(pair) for pair in encoded],
        data_collator=PairCollator(tokenizer.pad_token_id, activation=activation),
        processing_class=tokenizer,
    ).train()
    save_adapter(model, directory)
    if activation is not None:
        write_activation(directory, activation)


def save_adapter(model: Any, directory: Path) -> None:
    """bf16 weights and the settings in use: no path of this machine, nothing that an older peft would not know."""
    model.to(torch.bfloat16).save_pretrained(directory, save_embedding_layers=False)
    path = directory / "adapter_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    config = {key: value for key, value in saved.items() if key in ADAPTER_SETTINGS}
    config.update(base_model_name_or_path=None, target_modules=sorted(config["target_modules"]))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / "adapter_model.safetensors").chmod(0o644)
    (directory / "README.md").unlink(missing_ok=True)


def load_arm(base_directory: Path, directory: Path) -> Any:
    """A shipped adapter on the shipped base, both bf16-rounded, computing in fp32; an activated one awake until a
    `SleepingAdapter` is made of it."""
    return put_on(load_base(base_directory), directory)


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
