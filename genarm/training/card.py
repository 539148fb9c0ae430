"""The model card of a run's folder, and the folder on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..errors import GenARMError, InvalidArgumentError

KINDS = {
    "arm": "An autoregressive reward model: its log-probability of a response is the response's reward",
    "trajectory-rm": "A trajectory reward model: a scorer of whole responses",
    "parm": "An autoregressive reward model that is conditioned on a preference over several objectives (PARM)",
    "value": "A value head: after every token, an estimate of the reward that the base's continuation will earn",
    "dpo": "A policy trained by direct preference optimisation",
}
CARD = "README.md"


def write_card(output: Path, record: dict[str, Any]) -> None:
    """A README.md with the metadata of PEFT's card, where it wrote one, and what the record says in words."""
    path = output / CARD
    data = ModelCard.load(path).data if path.is_file() else ModelCardData(base_model=record["base"])
    data.tags = sorted({*(data.tags or []), "genarm", "reward-model" if record["kind"] != "dpo" else "dpo"})
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_words(record)}").save(path)


def _words(record: dict[str, Any]) -> str:
    metrics, settings, train = record["metrics"], record["settings"], record["data"]["train"]
    lines = [
        f"# {record['objective']}",
        "",
        f"{KINDS[record['kind']]}, trained with genarm on {_amount(train)}.",
        "",
        f"- Base: `{record['base']}`",
        f"- {'LoRA of rank ' + str(settings['rank']) if settings['rank'] else 'The whole model'}, "
        f"{metrics['steps']} steps of {settings['batch_size']} {'answers' if 'answers' in train else 'pairs'}, peak "
        f"learning rate {settings['learning_rate']:g}, seed {record['seed']}",
    ]
    if settings.get("activate"):
        awake = record["data"]["awake_from"]
        where = awake if isinstance(awake, str) else f"the last tokens {awake} of the prompt, as PEFT's aLoRA"
        lines.append(f"- Asleep on prompts: awake from {where} on")
    if record["beta"] is not None:
        lines.append(f"- β: {record['beta']:g}")
    if metrics.get("eval_accuracy") is not None:
        low, high = metrics["eval_accuracy_interval"]
        lines.append(
            f"- {100 * metrics['eval_accuracy']:.1f}% of {record['data']['held out']['pairs']} held-out pairs ordered "
            f"right (95% interval {100 * low:.1f} to {100 * high:.1f}%)"
        )
    if metrics.get("eval_correlation") is not None:
        lines.append(
            f"- Correlation with the rewards of held-out answers: {metrics['eval_correlation']:.3f}; mean squared "
            f"error {metrics['eval_mse']:.3g}, of which their mean would leave {metrics['eval_variance']:.3g}"
        )
    if record["kind"] == "arm":
        lines += ["", "```bash", f"genarm generate --base {record['base']} --reward NAME=THIS:1.0 --prompt TEXT", "```"]
    for name, one in metrics.get("eval_accuracies", {}).items():
        low, high = one["interval"]
        lines.append(
            f"- {name}: {100 * one['accuracy']:.1f}% of its {one['pairs']} under that preference alone "
            f"({100 * low:.1f} to {100 * high:.1f}%)"
        )
    if record["kind"] == "parm":
        share = round(1 / len(record["objectives"]), 3)
        preference = ",".join(f"{name}:{share:g}" for name in record["objectives"])
        command = f"genarm generate TEXT --base {record['base']} --reward NAME=THIS:1.0 --preference NAME={preference}"
        lines += ["", "```bash", command, "```"]
    return "\n".join([*lines, "", "`training.json` has every setting and figure.", ""])


def _amount(train: dict[str, Any]) -> str:
    """What was trained on, counted."""
    if "answers" in train:
        return f"{train['answers']:,} answers of the base to {train['prompts']:,} prompts"
    return f"{train['pairs']:,} preference pairs"


def check_hub(name: str) -> None:
    """Raises InvalidArgumentError where the hub would take nothing under this name from this user."""
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError, HFValidationError) as error:
        raise InvalidArgumentError(
            f"push to hub {name}: the hub does not let you in ({_short(error)}): log in with `hf auth login`, and "
            "leave HF_HUB_OFFLINE unset"
        ) from None


def push(output: Path, name: str) -> str:
    """Upload a complete run to the repository ``name``, made where it is not there; its address.

    Raises:
        GenARMError: the hub refused it; the folder is complete, and the same command uploads it again.
    """
    try:
        repository = HfApi().create_repo(name, exist_ok=True)
        HfApi().upload_folder(repo_id=repository.repo_id, folder_path=output, ignore_patterns=["checkpoints/*"])
    except (HfHubHTTPError, OSError, HFValidationError) as error:
        raise GenARMError(
            f"push to hub {name}: {_short(error)}: {output} is complete, and the same command uploads it again"
        ) from None
    return str(repository)


def _short(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160] or type(error).__name__
