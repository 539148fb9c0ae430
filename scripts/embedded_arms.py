"""The four reward models of the embedded set: LoRA adapters on its base, trained with the GenARM loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from embedded_base import bf16_is_fast, load_base
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from genarm.preferences.collate import PairCollator
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair
from genarm.training.arm import ArmTrainer

OBJECTIVES = {
    "art": "interest-in-art",
    "science": "interest-in-science",
    "agreeableness": "agreeableness",
    "risk": "risk-seeking",
}
BETA = 0.1
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS = {
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha", "lora_dropout", "bias"),
    *("target_modules", "fan_in_fan_out", "use_rslora", "use_dora", "modules_to_save"),
}


def arm_arguments(work: Path, seed: int, epochs: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        remove_unused_columns=False,
        seed=seed,
        use_cpu=True,
        bf16=bf16_is_fast(),
        dataloader_pin_memory=False,
    )


def train_arm(
    base_directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[PreferencePair],
    directory: Path,
    arguments: TrainingArguments,
) -> None:
    """Train one adapter on the base as it ships (bf16-rounded) and save it as bf16 safetensors."""
    set_seed(arguments.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules=LINEARS, inference_mode=False
    )
    model = get_peft_model(load_base(base_directory), config)
    ArmTrainer(
        model=model,
        args=arguments,
        beta=BETA,
        train_dataset=encode_pairs(tokenizer, pairs).pairs,
        data_collator=PairCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    ).train()
    save_adapter(model, directory)


def save_adapter(model: Any, directory: Path) -> None:
    """bf16 weights and the settings in use: no path of this machine, nothing that an older peft would not know."""
    model.to(torch.bfloat16).save_pretrained(directory, save_embedding_layers=False)
    path = directory / "adapter_config.json"
    config = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key in SETTINGS}
    config.update(base_model_name_or_path=None, target_modules=sorted(config["target_modules"]))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / "adapter_model.safetensors").chmod(0o644)
    (directory / "README.md").unlink(missing_ok=True)


def load_arm(base_directory: Path, directory: Path) -> Any:
    """A shipped adapter on the shipped base, both bf16-rounded, computing in fp32."""
    return PeftModel.from_pretrained(load_base(base_directory), directory).eval()
