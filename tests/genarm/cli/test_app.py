"""The command line itself: help, usage errors, warnings and exit statuses."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import genarm
from genarm.cli import generate
from genarm.cli.app import main
from genarm.cli.options import GenerateOptions, ModelOptions
from genarm.errors import InvalidArgumentError, RunError

# An option of each command.
COMMANDS = {
    "generate": "--no-chat",
    "chat": "--transcript",
    "bench": "--trace",
    "info": "--json",
    "demo": "--output",
    "train": "arm|trajectory-rm|dpo",
    "train arm": "--lr",
    "evaluate accuracy": "--trajectory-rm",
    "evaluate rewards": "--rejected",
    "evaluate gap": "--resample-every",
}


def test_help_version_info_and_refusals_import_nothing_heavy():
    code = "import sys; from genarm.cli.app import main\n"
    code += f"for command in {list(COMMANDS)}: assert main([*command.split(), '--help']) == 0\n"
    code += "assert main(['-h']) == main(['train', '-h']) == 0\n"
    code += "assert main(['generate', '--input', 'nowhere']) == 1 == main(['generate', 'a', '--base', './nowhere'])\n"
    code += "assert main(['--version']) == main(['info']) == 0\n"
    code += "assert not {'torch', 'triton', 'transformers', 'trl', 'datasets'} & sys.modules.keys()"
    machine = {**os.environ, "COLUMNS": "80"}
    machine.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=machine)
    assert done.returncode == 0, done.stderr  # at once
    assert [option for option in COMMANDS.values() if option not in done.stdout] == []
    assert f"genarm {genarm.__version__}\n" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_a_group_alone_shows_its_commands(cli):
    for arguments, names in (((), ("generate", "info")), (("evaluate",), ("accuracy", "rewards"))):
        found = cli(*arguments)
        assert (found.status, found.errors) == (0, []) and all(name in found.text for name in names)


def test_a_shell_completes_commands_and_options(monkeypatch, capsys):
    monkeypatch.setenv("_GENARM_COMPLETE", "complete_bash")
    for typed, words in (("genarm ge", "generate"), ("genarm generate --max-n", "--max-new-tokens")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        with pytest.raises(SystemExit):
            main([])
        assert capsys.readouterr().out.split() == [words]


@pytest.mark.parametrize(
    ("line", "words"), [("nonsense", "nonsense"), ("generate --sharp", "--sharp"), ("train ppo", "trajectory-rm")]
)
def test_a_usage_error_is_one_line(cli, line, words):
    cli(*line.split()).assert_refused(2, words)


@pytest.fixture
def options(monkeypatch):
    """The options of every run, which is not made."""
    seen: list[GenerateOptions] = []
    monkeypatch.setattr(generate, "generate", lambda given: seen.append(given) or 0)
    return seen


def test_every_option_arrives(cli, options):
    text = "--base b --reward a=b:1 --reward c --prompt p --prompt q --max-new-tokens 7 --temperature 0.5 --top-k 3"
    text += " --top-p 0.9 --min-p 0.1 --seed 4 --batch-size 2 --max-length 99 --dtype float16 --device cpu --chat"
    text += " --overwrite --trust-remote-code --beta 2 --base-weight 0.5 --output o --base-min-p 0.2 --base-top-p 0.8"
    text += (
        " --repetition-penalty 1.2 --stop x --stop a\\nb -n 3 --system s --json --stats --as-completed --retry-failed"
        " --reward-base a=own --no-check-vocabulary"
    )
    assert cli("generate", "r", *text.split()).status == 0
    decoding = {"beta": 2.0, "base_weight": 0.5, "max_new_tokens": 7, "stop": ["x", "a\nb"]}
    decoding |= {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1}
    decoding |= {"base_min_p": 0.2, "base_top_p": 0.8, "repetition_penalty": 1.2}
    models = ModelOptions("b", ["a=b:1", "c"], 2, 99, "float16", "cpu", True, ["a=own"], check_vocabulary=False)
    given = {"models": models, "prompts": ["r", "p", "q"], "output": Path("o"), "decoding": decoding, "samples": 3}
    flags = dict.fromkeys(("chat", "json", "stats", "as_completed", "retry_failed", "overwrite"), True)
    assert options == [GenerateOptions(**given, seed=4, system="s", chosen=frozenset(decoding), **flags)]


def test_the_defaults_are_the_plain_distribution_and_no_remote_code(cli, options):
    assert cli("generate").status == 0
    decoding = options[0].decoding
    assert decoding["temperature"] == decoding["top_p"] == decoding["beta"] == decoding["base_weight"] == 1.0
    assert decoding["top_k"] == decoding["min_p"] == 0
    assert decoding["base_min_p"] == 0 and decoding["base_top_p"] == decoding["repetition_penalty"] == 1
    assert not options[0].models.trust_remote_code and not options[0].chat and options[0].models.base is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--beta -1", "--beta is -1: give a number above 0"),
        ("--beta 0", "--beta is 0: give a number above 0"),
        ("--repetition-penalty 0", "--repetition-penalty is 0: give a number above 0"),
        ("--top-p 2", "'--top-p'"),
        ("--base-min-p -1", "'--base-min-p'"),
        ("-n 0", "'-n'"),
        ("--stop a\udcff", "--stop 'a\\udcff' is not UTF-8"),
        ("--chat --system a\udcff", "--system 'a\\udcff' is not UTF-8"),
    ],
)
def test_numbers_out_of_range_and_bytes_are_refused_at_once(cli, options, line, words):
    cli("generate", "a", *line.split()).assert_refused(2, words)
    assert not options


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (RunError("no\nroom"), 1, ["genarm: error: no room"]),
        (InvalidArgumentError("what?"), 2, ["genarm: error: what?"]),
        (OSError(errno.ENOSPC, "full"), 1, ["genarm: error: the output: full: make room or choose another place"]),
        (KeyboardInterrupt(), 130, []),
    ],
)
def test_an_error_is_one_line_and_a_status(cli, monkeypatch, error, status, lines):
    def fail(_):
        raise error

    monkeypatch.setattr(generate, "generate", fail)
    found = cli("generate", "--prompt", "a")
    assert (found.status, found.errors) == (status, lines)


def test_a_warning_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(generate, "generate", lambda _: warnings.warn("mind\nthe gap", stacklevel=1))
    assert cli("generate", "--prompt", "a").line == "genarm: warning: mind the gap"
