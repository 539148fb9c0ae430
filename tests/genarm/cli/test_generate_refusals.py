"""Bad command lines: one line that says what is wrong and what to do, and no file left behind."""

import pytest
from chat_families import byte_tokenizer
from families import make_model

# FOLDER stands for the folder that `material` fills. What each module refuses is in its own tests: here is one case
# per place that a command line passes.
BAD = [
    (["--prompt", "a", "--reward", "x"], 2, "--reward 'x' names no embedded reward model"),
    (["--prompt", "a", "--base", "./nowhere"], 1, "./nowhere: no such folder"),
    (["--prompt", "a", "--reward", "x=FOLDER"], 1, "cannot be loaded as a causal language model"),
    (["--prompt", "a", "--base", "FOLDER/pickled"], 1, "pickled weights can run code when loaded"),
    (["--prompt", "a", "--base", "FOLDER/mute"], 2, "the base model has no tokenizer beside it"),
    (["--prompt", "a", "--base", "FOLDER/plain", "--chat"], 2, "has no chat template: leave --chat out"),
    (["--prompt", "a", "--reward", "x=FOLDER/foreign"], 1, "guidance needs one vocabulary"),
    (["--prompt", "a", "--stop", ""], 2, "--stop is empty"),
    (["--prompt", "a", "--guide-when", "entropy"], 2, "--guide-when is 'entropy': write entropy=X"),
    (["--prompt", "a", "--guide-when", "entropi=1"], 2, "did you mean 'entropy'"),
    (["a", "--system", "b"], 2, "--system is a message before a conversation: give --chat too"),
    (["--input", "FOLDER/in.txt", "--system", "b"], 2, "the prompts are texts: give --chat too"),
    (["--input", "FOLDER/table.csv"], 1, "table.csv is CSV, and prompts are read from text, JSONL or JSON"),
    (["--prompt", "a", "--dtype", "int8"], 2, "dtype is 'int8': pass 'auto', 'bfloat16', 'float16' or 'float32'"),
    (["--prompt", "a", "--input", "FOLDER/in.txt"], 2, "a prompt and --input were both given"),
    (["--prompt", "a\udcff"], 2, "is not UTF-8"),
    ([], 2, 'there is nothing to generate from: give a prompt ("I really enjoy") or --input FILE'),
    (["--input", "FOLDER/none"], 1, "none: no such file: check --input"),
    (["--input", "FOLDER/broken.jsonl"], 1, "broken.jsonl line 1 is not JSON"),
    (["--input", "FOLDER/in.txt", "--output", "FOLDER/in.txt"], 2, "--input and --output are both"),
    (["--prompt", "a", "--output", "FOLDER/none/out"], 1, "there is no directory"),
]


@pytest.fixture(scope="session")
def material(models, tmp_path_factory):
    """Inputs and models that are wrong in one way each."""
    folder, base = tmp_path_factory.mktemp("material"), models / "base"
    (folder / "in.txt").write_text("a\n")
    (folder / "broken.jsonl").write_text("{\n")
    (folder / "table.csv").write_text("prompt\na\n")
    weights = {"pickled": "pytorch_model.bin", "mute": "model.safetensors", "plain": "model.safetensors"}
    for name, file in weights.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((base / "config.json").read_bytes())
        (folder / name / file).write_bytes((base / "model.safetensors").read_bytes())
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "plain")
    make_model("llama", vocab=1000).save_pretrained(folder / "foreign")
    return folder


@pytest.mark.parametrize(("arguments", "status", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_input_is_one_line_and_leaves_no_file(cli, material, arguments, status, words):
    before = sorted(material.rglob("*"))
    given = [argument.replace("FOLDER", str(material)) for argument in arguments]
    cli.generate(*given, *([] if "--output" in arguments else ["--output", cli.output])).assert_refused(status, words)
    assert cli.left() == [] and sorted(material.rglob("*")) == before
