"""One reward model for several objectives (PARM): its loss, what it learns, its folder, and where a run goes on."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs

from genarm import GuidedDecoder
from genarm.cli.train import named_data
from genarm.errors import InvalidArgumentError
from genarm.training import session
from genarm.training.parm import ParmTrainer, layers_of
from genarm.training.progress import FiniteFigures
from genarm.training.run import train

NAMES = ("likes", "dislikes")
STEPS = 30


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same answers under two objectives that want opposite things; more pairs of the first."""
    folder = tmp_path_factory.mktemp("objectives")
    likes = write_pairs(folder / "likes.jsonl", 36)
    rows = [json.loads(line) for line in (folder / "likes.jsonl").read_text().splitlines()][:24]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    (folder / "dislikes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    return likes, str(folder / "dislikes.jsonl")


@pytest.fixture(scope="module")
def settings(base, sets):
    own = {"kind": "parm", "objectives": NAMES, "rank": 8, "alpha": 16, "batch_size": 8, "micro_batch_size": 4}
    more = {"eval_share": 0.2, "max_steps": STEPS, "learning_rate": 5e-2, "save_every": 8, "weight_decay": 0.0}
    return run_settings(base, sets, **own, **more)


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """Its folder, its record, what every step drew, and its trainer."""
    seen = []

    class Watched(ParmTrainer):
        def compute_loss(self, model, inputs, *arguments, **options):
            loss = super().compute_loss(model, inputs, *arguments, **options)
            seen.append((self, inputs, options.get("num_items_in_batch"), loss))
            return loss

    folder = tmp_path_factory.mktemp("runs") / "parm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genarm.training.trainers.ParmTrainer", Watched)
        record = train(settings, folder)
    return folder, record, seen


def test_each_preference_orders_the_pairs_its_own_way(trained, settings):
    """As the record says, and as the folder's adapter says when it decodes."""
    folder, record, seen = trained
    measured = record["metrics"]["eval_accuracies"]
    assert list(measured) == list(NAMES) == record["objectives"]
    # A model that knew nothing of preferences would be as often wrong under one as it is right under the other.
    assert all(one["accuracy"] > 0.8 and one["pairs"] > 5 for one in measured.values())
    decoder, trainer = GuidedDecoder.from_pretrained(settings.base, {"parm": folder}, dtype="float32"), seen[-1][0]
    pairs = trainer.eval_dataset
    corners = [{"parm": {name: float(pair["objective"] == at) for at, name in enumerate(NAMES)}} for pair in pairs]
    for side, rewards in zip(("chosen_ids", "rejected_ids"), trainer.evaluated.unbind(1), strict=True):
        prompts = [pair["prompt_ids"] for pair in pairs]
        found = decoder.score(prompts, [pair[side] for pair in pairs], preferences=corners)
        torch.testing.assert_close(found.model_totals[:, 1], rewards, atol=1e-3, rtol=1e-4)


def test_the_folder_is_read_as_what_was_trained(trained):
    folder, _, seen = trained
    config, state = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(next(folder.glob("*.safetensors"))),
    )
    assert config["objectives"] == list(NAMES) and (config["r1"], config["r2"], config["pref_vec_init"]) == (4, 4, None)
    layers = layers_of(seen[-1][0].model)
    assert len(state) == 4 * len(layers) == 4 * 14
    for name, layer in layers.items():
        for part in ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2"):
            torch.testing.assert_close(state[f"base_model.model.{name}.{part}"], getattr(layer, part).detach())
    assert not (folder / "checkpoints").exists() and "conditioned on a preference" in (folder / "README.md").read_text()


def test_the_loss_is_that_of_each_objective_times_its_share(trained, settings):
    """Over a step, by the rewards of a forward pass with the formula's own delta merged into each layer."""
    trainer, inputs, *_ = next(one for one in trained[2] if one[2] is not None)
    draws = torch.stack([trainer.preference_of(step) for step in range(2000)])
    assert torch.allclose(draws.sum(1), torch.ones(2000)) and abs(float(draws[:, 0].mean()) - 0.5) < 0.03
    assert abs(float(draws[:, 0].var()) - 0.125) < 0.01  # Dirichlet(½, ½)
    trainer.state.global_step = 5
    again = trainer.compute_loss(trainer.model.eval(), inputs, num_items_in_batch=torch.tensor(8))
    p, own, sizes = trainer.preference_of(5), inputs["objectives"], [0, 0]
    for pair in trainer.train_dataset:
        sizes[pair["objective"]] += 1
    merged = GuidedDecoder.from_pretrained(settings.base, dtype="float32").base_model
    for name, layer in layers_of(trainer.model).items():
        A, B, W1, W2 = (getattr(layer, part).detach() for part in ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2"))
        mixed = (p[0] * W2[0] + p[1] * W2[1]).view(4, 4)
        delta = 2.0 * (B[:, :4] @ W1 @ A[:4] + B[:, 4:] @ mixed @ A[4:])
        merged.get_submodule(name).weight.data += delta
    with torch.no_grad():
        logits = merged(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1].log_softmax(-1)
    labels = inputs["labels"][:, 1:]
    totals = (logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels >= 0)).sum(1)
    losses = -F.logsigmoid(0.1 * (totals[:4] - totals[4:]))
    expected = sum(float(losses[row]) * float(p[own[row]]) * sum(sizes) / sizes[own[row]] for row in range(4)) / 8
    assert float(again.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(trained, settings, tmp_path):
    class Stops(FiniteFigures):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 20:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(session, "FiniteFigures", Stops)
        train(settings, tmp_path / "out")
    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint-16"
    assert (checkpoint / "adapter_model.safetensors").is_file() and not (checkpoint / "model.safetensors").exists()
    said = []
    record = train(settings, tmp_path / "out", say=said.append)
    assert said == ["resuming from checkpoint-16"]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (trained[0], tmp_path / "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert record["metrics"]["eval_accuracies"] == trained[1]["metrics"]["eval_accuracies"]
    assert train(settings, tmp_path / "out") == json.loads(json.dumps(record))
    with pytest.raises(InvalidArgumentError, match="another objectives"):
        train(replace(settings, objectives=NAMES[::-1]), tmp_path / "out")


WRONG = {
    "one objective": ({"objectives": ("likes",)}, "name two or more"),
    "one twice": ({"objectives": ("likes", "likes")}, "name two or more"),
    "a name that no command line can say": ({"objectives": ("likes", "a:b")}, "without any of = : ,"),
    "too few data sets": ({"data": "one.jsonl"}, "2 objectives need as many data sets"),
    "an odd rank": ({"rank": 3}, "rank is 3"),
    "a whole model": ({"rank": 0}, "rank is 0"),
    "4 bits": ({"load_in_4bit": True}, "load in 4bit goes with plain LoRA"),
    "no concentration": ({"concentration": 0.0}, "concentration is 0"),
    "no such layers": ({"target_modules": ("c_attn",)}, "has no such linear layers"),
}


@pytest.mark.parametrize(("changes", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_trained_is_refused(settings, tmp_path, changes, text):
    with pytest.raises(InvalidArgumentError, match=text):
        train(replace(settings, **changes), tmp_path / "out")


def test_data_sets_name_their_objectives():
    assert named_data(["a=x", "b=y=z"], ["b=v", "a=u"]) == (("a", "b"), ["x", "y=z"], ["u", "v"])
    for data, measured in ((["x"], None), (["a=x", "a=y"], None), (["a=x", "b="], None), (["a=x", "b=y"], ["a=u"])):
        with pytest.raises(InvalidArgumentError, match=r"--(eval-)?data"):
            named_data(data, measured)
