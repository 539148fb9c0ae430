"""Names and paths -> models and tokenizers: safe files only, complete, and a LoRA folder with the base it is on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import LoadingError
from .files import NO_OPTIONS, HubOptions, adapter_folder, is_adapter, model_source, read_json, refuse_pickled
from .joined import join
from .options import Source
from .placement import execution_device

REPORTED = ("missing_keys", "unexpected_keys")


def load_model(name: str | Path, source: Source) -> nn.Module:
    """A causal LM from a folder or the hub: safetensors only, complete, in ``source.dtype`` on ``source.device``.

    A folder that holds a LoRA adapter, as a supervised fine-tuning leaves it, is the model it was trained on with the
    adapter as a part of it, which a warning says: merged into the weights, or, where those are quantised or
    offloaded, added by hooks on its layers (a rounded sum in 4 bits would be another model). Either way no PEFT layer
    is in it: new adapters go on top, and switching those off gives this model back.

    Raises:
        LoadingError: files that are missing, damaged or of another kind of model.
        UnsafeWeightsError: pickled weights.
        UnsupportedAdapterError: an adapter that cannot be made a part of its model.
    """
    path = str(name)
    if not is_adapter(path, source.hub):
        return _load(AutoModelForCausalLM, path, source)
    folder = adapter_folder(path, source.hub)
    model = load_model(base_of(path, source.hub), source.of_base())
    return join(model, folder, path)


def load_scorer(name: str | Path, source: Source, new_score: bool = False) -> nn.Module:
    """A trajectory RM, a sequence classifier of one label, as `load_model` loads a causal LM.

    ``new_score``: the files are a causal LM's, and the score that takes its head's place is an adapter's to bring.
    """
    path = str(name)
    if not (new_score and is_adapter(path, source.hub)):
        return _load(AutoModelForSequenceClassification, path, source, new_score, num_labels=1)
    scorer: Any = _load(
        AutoModelForSequenceClassification, full_model(path, source.hub), source.of_base(), True, num_labels=1
    )
    model: Any = load_model(path, source)
    setattr(scorer, scorer.base_model_prefix, getattr(model, model.base_model_prefix))
    scorer.name_or_path = scorer.config._name_or_path = path
    return scorer  # type: ignore[no-any-return]


def load_tokenizer(name: str | Path, trust_remote_code: bool = False, hub: HubOptions = NO_OPTIONS) -> Any:
    """The tokenizer beside a model, or None where there is none. A LoRA folder without one has its base's."""
    with suppress(Exception):  # whatever it fails with, a model without a tokenizer is still a model
        path = str(adapter_folder(str(name), hub)) if is_adapter(str(name), hub) else model_source(str(name), hub)
        found = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **hub)
        # Where config.json names a Qwen or GPT-2 and no tokenizer lies beside it, transformers makes an empty one.
        if len(found) > len(getattr(found, "added_tokens_decoder", ())):
            return found
    try:
        return load_tokenizer(base_of(str(name), hub), trust_remote_code) if is_adapter(str(name), hub) else None
    except LoadingError:
        return None


def full_model(name: str, hub: HubOptions = NO_OPTIONS) -> str:
    """The full model behind a name: for a LoRA folder the model it is on, else the name itself."""
    return full_model(base_of(name, hub)) if is_adapter(name, hub) else name


def base_of(name: str, hub: HubOptions = NO_OPTIONS) -> str:
    """The model that a LoRA folder says it was trained on."""
    folder = adapter_folder(name, hub)
    if any(file.name != "adapter_model.safetensors" for file in folder.glob("*.safetensors")):
        raise LoadingError(
            f"{name}: holds a LoRA adapter and the weights of a model: move adapter_config.json and "
            "adapter_model.safetensors into a folder of their own, and pass the one that is meant"
        )
    recorded = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not recorded:
        raise LoadingError(
            f"{name}: a LoRA adapter, and its adapter_config.json names no base_model_name_or_path: write the path of "
            "the model it was trained on there, or merge it and pass the full model"
        )
    place = Path(str(recorded)).expanduser()
    if place.is_dir() and place.samefile(folder):
        raise LoadingError(
            f"{name}: its adapter_config.json names the adapter itself as the model it is on: correct it"
        )
    return str(recorded)


def _load(architecture: Any, name: str, source: Source, new_score: bool = False, **settings: Any) -> nn.Module:
    folder = model_source(name, source.hub)
    try:
        with _quiet():
            loaded: Any = architecture.from_pretrained(
                folder,
                dtype=source.dtype,
                use_safetensors=True,
                trust_remote_code=source.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **source.keywords(),
                **settings,
            )
    except SafetensorError as error:
        raise LoadingError(f"{name}: its weights are corrupt ({error}): copy or save them again") from None
    except Exception as error:  # a damaged configuration fails in any way it likes
        kind = "a causal language model" if architecture is AutoModelForCausalLM else "a scorer of sequences"
        raise _loading_error(name, error, kind, source.options) from error
    model, report = loaded
    if new_score:
        report = {kind: [key for key in keys if not _is_head(key)] for kind, keys in report.items() if kind in REPORTED}
    _check_report(name, report)
    placed: nn.Module = model.eval()
    here, wanted = execution_device(placed), source.device
    is_there = here.type == wanted.type and wanted.index in {None, here.index}
    return placed if source.places or is_there else placed.to(wanted)


def _is_head(key: str) -> bool:
    return key.partition(".")[0] in {"score", "classifier", "lm_head"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading report, a table: ``_check_report`` says the same in one line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _check_report(name: str | Path, report: Mapping[str, Any]) -> None:
    mismatched = sorted(report.get("mismatched_keys", ()))
    if mismatched:
        key, found, wanted = mismatched[0]
        raise LoadingError(
            f"{name}: {len(mismatched)} weights do not fit its config.json ({key} is {list(found)}, not "
            f"{list(wanted)}): copy or save it again"
        )
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise LoadingError(
            f"{name}: {len(missing)} weights are missing from its files ({missing[0]}, …): it is incomplete "
            "or of another architecture; copy or save it again"
        )
    unused = sorted(report.get("unexpected_keys", ()))
    if unused:
        warnings.warn(f"{name}: {len(unused)} weights in its files are not used ({unused[0]}, …)", stacklevel=2)


def _loading_error(name: str, error: Exception, kind: str, options: Mapping[str, Any]) -> LoadingError:
    text = shorten(str(error), 160, placeholder=" …") or type(error).__name__
    folder = Path(name).expanduser()
    if not list(folder.glob("*.safetensors")):
        refuse_pickled(folder)
    if not folder.exists():
        return LoadingError(f"{name}: no such folder, and not to be had from the hub ({text}): check the path")
    cure = f"copy or save it again, or change {', '.join(options)}" if options else "copy or save it again"
    return LoadingError(f"{name}: cannot be loaded as {kind} ({text}): {cure}")
