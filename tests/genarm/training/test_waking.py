"""An adapter trained asleep on prompts: its loss, its gradients and its folder, held to two literal passes, the
prompt's beginning without the adapter and the rest with it, and to PEFT's own reading of what was saved."""

import json
from dataclasses import replace

import pytest
import torch
from activated_cases import CONFIG, LiteralLoop
from chat_families import FAMILIES, make_tokenizer
from families import make_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from training_cases import ragged_pairs, run_settings, save_base
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from genarm import GuidedDecoder
from genarm.errors import InvalidArgumentError, UnsupportedAdapterError
from genarm.evaluation.choices import Choice
from genarm.evaluation.scorers import pair_scores
from genarm.models.activation import AT_LAST, TOKENS, Activation
from genarm.models.adapters import read_adapter
from genarm.models.asleep import SleepingAdapter
from genarm.models.options import Source
from genarm.preferences.chat import pair_tokenizer, reply_start
from genarm.preferences.collate import PairCollator
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import read_pairs
from genarm.preferences.scoring import pair_rewards, token_rewards
from genarm.training.arm import ArmTrainer, arm_loss
from genarm.training.continuing import continued
from genarm.training.run import train

PAIRS = ragged_pairs(4, seed=3)
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj", "lm_head"], "gpt2": ["c_attn", "c_proj", "c_fc"]}


def adapted(family):
    """A model with a random adapter that PEFT put on, ready to be trained."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=TARGETS[family], init_lora_weights=False)
    model = get_peft_model(make_model(family, seed=1), config).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def two_passes(model, prompt, response, awake=1):
    """Σ log π of a response, differentiable: the prompt but its last ``awake`` tokens without the adapter, then the
    rest of the text with it, over the keys and values of that."""
    text, start = torch.tensor([[*prompt, *response]]), len(prompt) - awake
    cache = None
    if start:
        with torch.no_grad(), model.disable_adapter():
            cache = model(input_ids=text[:, :start], use_cache=True).past_key_values
    logits = model(input_ids=text[:, start:], past_key_values=cache, use_cache=True).logits[0, awake - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum()


def trainer_of(model, tmp_path, activation):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False)
    asleep = SleepingAdapter(model, activation)
    return ArmTrainer(
        model=model, args=arguments, beta=0.5, asleep=asleep, data_collator=PairCollator(0, activation=activation)
    )


def gradients(model):
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("tokens", [(), (7, 9)])
def test_loss_and_gradients_are_those_of_two_literal_passes(family, tokens, checkpointing, tmp_path):
    pairs = [{**pair, "prompt_ids": [*pair["prompt_ids"], *tokens]} for pair in PAIRS]
    model = adapted(family)
    sides = [
        torch.stack([two_passes(model, pair["prompt_ids"], pair[side], len(tokens) or 1) for pair in pairs])
        for side in ("chosen_ids", "rejected_ids")
    ]
    expected = arm_loss(*sides, 0.5)
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    ordinary = pair_rewards(model, pairs, 0)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    trainer = trainer_of(model, tmp_path, Activation(tokens))
    loss = trainer.compute_loss(model, trainer.data_collator(pairs))
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found = gradients(model)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * float(gradient.abs().max() + 1), rtol=1e-4)
    rewards = pair_rewards(model, pairs, 0, batch_size=3, asleep=trainer.asleep)
    torch.testing.assert_close(rewards, torch.stack(sides, 1).double().detach(), atol=1e-4, rtol=0)
    assert (rewards - ordinary).abs().max() > 0.1
    for own, both in zip(rewards, token_rewards(model, pairs, 0, 3, asleep=trainer.asleep), strict=True):
        torch.testing.assert_close(torch.stack([one.sum() for one in both]).double(), own, atol=1e-4, rtol=0)
    trainer.asleep.wake()
    assert torch.equal(pair_rewards(model, pairs, 0), ordinary)


def test_an_adapter_does_not_sleep_on_what_it_has_not_read():
    model = adapted("llama")
    asleep = SleepingAdapter(model, Activation())
    with pytest.raises(RuntimeError, match="has not read"):
        model(input_ids=torch.tensor([[3, 4]]))
    asleep.wake()
    with pytest.raises(UnsupportedAdapterError, match="this one is none"):
        SleepingAdapter(make_model("llama"), Activation())
    embedding = get_peft_model(make_model("llama"), LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]))
    with pytest.raises(UnsupportedAdapterError, match="on an embedding"):
        SleepingAdapter(embedding, Activation())


CHANGES = {"activate": "response", "beta": 0.5, "max_steps": 4, "eval_share": 0.0}


def responses_of(tokenizer, path):
    return encode_pairs(tokenizer, read_pairs(path)).pairs


def test_what_was_trained_loads_and_scores_as_the_record_says(base, data, held_out, trained):
    folder, record = trained(**{**CHANGES, "eval_data": held_out})
    assert read_adapter(folder).activation == Activation()
    config = json.loads((folder / CONFIG).read_text())
    assert config[TOKENS] == [-1] and config[AT_LAST] is True and config["lora_alpha"] == 16
    assert record["data"]["awake_from"] == "the prompt's last token" and record["settings"]["activate"] == "response"
    assert "- Asleep on prompts: awake from the prompt's last token on" in (folder / "README.md").read_text()
    tokenizer, model = pair_tokenizer(base), AutoModelForCausalLM.from_pretrained(base).eval()
    pairs = responses_of(tokenizer, held_out)
    loop = LiteralLoop(model, folder)
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.stack(
                    [two_passes(loop.model, one["prompt_ids"], one[side]) for side in ("chosen_ids", "rejected_ids")]
                )
                for one in pairs
            ]
        )
    margins = 0.5 * (expected[:, 0] - expected[:, 1])
    assert record["metrics"]["eval_loss"] == pytest.approx(
        float(-torch.nn.functional.logsigmoid(margins).mean()), rel=1e-4
    )
    source = Source(torch.float32, torch.device("cpu"))
    choices = [Choice("own", "arm", str(folder))]
    (_, scored) = pair_scores(base, choices, [pairs], tokenizer, source, 3)
    assert torch.tensor(scored.values[0]) == pytest.approx(expected.double().numpy(), abs=1e-4)
    prompts, chosen = ([one[name] for one in pairs] for name in ("prompt_ids", "chosen_ids"))
    out = GuidedDecoder(model, {"own": folder}, tokenizer).score(prompts, chosen, weights={"own": 1.0})
    torch.testing.assert_close(out.model_totals[:, 1], expected[:, 0].double(), atol=1e-4, rtol=0)


TURN = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A base with a chat template, and pairs of messages."""
    folder = tmp_path_factory.mktemp("chat")
    base = save_base(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TURN
    tokenizer.save_pretrained(base)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What of {number}?"}],
            "chosen": [{"role": "assistant", "content": "I enjoy it."}],
            "rejected": [{"role": "assistant", "content": "I avoid it at times."}],
        }
        for number in range(9)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return base, str(folder / "pairs.jsonl"), folder


def test_peft_reads_what_was_trained_on_chats_as_we_do(chat):
    base, data, folder = chat
    said = []
    train(run_settings(base, data, **CHANGES), folder / "out", say=said.append)
    tokenizer, model = pair_tokenizer(base), AutoModelForCausalLM.from_pretrained(base).eval()
    tokens = tokenizer("<s>assistant\n", add_special_tokens=False, split_special_tokens=False)["input_ids"]
    assert read_adapter(folder / "out").activation == Activation(tuple(tokens)) and len(tokens) > 1
    assert AT_LAST not in json.loads((folder / "out" / CONFIG).read_text())
    assert any("sleeps on prompts up to '<s>assistant\\n', which all of them end in" in text for text in said)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "out").eval()
    pairs = responses_of(tokenizer, data)[:4]
    with torch.no_grad():
        expected = torch.stack([log_prob(theirs, one["prompt_ids"], one["chosen_ids"]) for one in pairs])
    decoder = GuidedDecoder(model, {"own": folder / "out"}, tokenizer)
    out = decoder.score(
        [one["prompt_ids"] for one in pairs], [one["chosen_ids"] for one in pairs], weights={"own": 1.0}
    )
    torch.testing.assert_close(out.model_totals[:, 1], expected.double(), atol=1e-4, rtol=0)
    source = Source(torch.float32, torch.device("cpu"))
    (_, scored) = pair_scores(base, [Choice("own", "arm", str(folder / "out"))], [pairs], tokenizer, source)
    assert torch.tensor(scored.values[0])[:, 0].numpy() == pytest.approx(expected.double().numpy(), abs=1e-4)
    text = [{"prompt_ids": [0, 40], "chosen_ids": [50, 1], "rejected_ids": [51, 1]}]
    with pytest.raises(InvalidArgumentError, match="does not hold the tokens"):
        list(pair_scores(base, [Choice("own", "arm", str(folder / "out"))], [text], tokenizer, source))


def log_prob(model, prompt, response):
    """Σ log π of a response in one pass over the whole text, as PEFT alone has it."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum()


def test_prompts_of_another_end_than_the_template_s_wake_it_at_their_last_token(chat, data):
    """Text beside a chat template."""
    base, _, folder = chat
    said = []
    train(run_settings(base, data, **CHANGES), folder / "text", say=said.append)
    assert read_adapter(folder / "text").activation == Activation()
    assert any("sleeps on prompts up to their last token" in text for text in said)


def test_an_activated_adapter_goes_on_as_one_and_an_ordinary_one_as_that(base, data, chat, trained, tmp_path):
    ordinary, _ = trained(max_steps=1)
    activated, _ = trained(**CHANGES)
    with pytest.raises(InvalidArgumentError, match="is an ordinary adapter, awake on prompts"):
        continued(run_settings(base, data, continue_from=str(ordinary), activate="response"))
    with pytest.raises(UnsupportedAdapterError, match=r"asleep on a prompt .* pass it, or continue from"):
        continued(run_settings(base, data, continue_from=str(activated)))
    settings = run_settings(base, data, continue_from=str(activated), **{**CHANGES, "max_steps": 1})
    train(settings, tmp_path / "more")
    assert read_adapter(tmp_path / "more").activation == Activation()
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (activated, tmp_path / "more"))
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)
    chat_base, messages, folder = chat
    if not (folder / "out").is_dir():
        train(run_settings(chat_base, messages, **CHANGES), folder / "out")
    with pytest.raises(InvalidArgumentError, match="does not hold the tokens"):
        train(replace(settings, base=chat_base, continue_from=str(folder / "out")), tmp_path / "text")


def test_what_cannot_sleep_is_refused(base, data, tmp_path):
    for changes, words in (
        ({"kind": "dpo"}, "dpo is another kind"),
        ({"kind": "trajectory-rm"}, "another kind"),
        ({"rank": 0}, "rank 0 trains the whole model"),
        ({"activate": "prompt"}, "expected one of None, response"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            train(run_settings(base, data, **{**CHANGES, **changes}), tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="another activate"):
        train(run_settings(base, data, **{**CHANGES, "max_steps": 1, "activate": None}), tmp_path / "out")
        train(run_settings(base, data, **{**CHANGES, "max_steps": 1}), tmp_path / "out")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_writes_before_a_reply(name):
    start = {"llama-3": "<|start_header_id|>assistant<|end_header_id|>\n\n", "chatml": "<|im_start|>assistant\n"}
    start |= {"phi-3": "<|end|>\n<|assistant|>\n", "zephyr": "<|assistant|>\n", "opening": "<|assistant|><think>\n"}
    start["thinking"] = start["chatml"]
    assert reply_start(make_tokenizer(FAMILIES[name])) == start[name.partition(",")[0]]


def test_what_stands_for_a_template_s_reply_start():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    assert reply_start(tokenizer) == " [/INST]"
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert reply_start(tokenizer) == ""
    tokenizer.chat_template = None
    assert reply_start(tokenizer) == ""
