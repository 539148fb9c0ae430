"""Two processes do the work of one, and speak and write as one."""

import json
import os
import signal
import socket
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs

from genarm.cli.app import main
from genarm.training.run import train

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo, by which processes without a GPU talk",
)
# The data lasts for three whole batches and a half; seven pairs are held out, of which two processes take four each.
CHANGES = {"batch_size": 8, "micro_batch_size": 2, "max_steps": 3, "objective": "joy"}


def launch(arguments, folder, processes=2):
    """Output and messages of each process that runs the command three times: a run that is refused, one that is not,
    and one that its folder is refused for.

    Forks with what a launcher tells them; torchrun and accelerate would import torch in each.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    folder.mkdir()
    children = []
    for rank in range(processes):
        children.append(os.fork())
        if not children[-1]:
            try:
                signal.alarm(300)
                AcceleratorState._reset_state(reset_partial_state=True)  # its own rank, and not that of an earlier run
                os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""}
                with (folder / f"out{rank}").open("w") as sys.stdout, (folder / f"said{rank}").open("w") as sys.stderr:
                    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
                        os.dup2(stream.fileno(), number)
                    print(*(main([*arguments, *more]) for more in (["--objective", "a=b"], [], ["--beta", "3"])))
            finally:
                os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    return [[(folder / f"{name}{rank}").read_text() for name in ("out", "said")] for rank in range(processes)]


def test_two_processes_leave_what_one_leaves(base, held_out, tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl", 28)
    one = train(run_settings(base, data, eval_data=held_out, **CHANGES), tmp_path / "one")
    options = (
        f"--base {base} --data {data} --eval-data {held_out} --output {tmp_path / 'two'} --objective joy "
        "--eval-share 0 --batch-size 8 --micro-batch-size 2 --max-steps 3 --rank 2 --dropout 0 --learning-rate 1e-2 "
        "--precision fp32 --save-every 2 --log-every 1"
    )
    (out, said), (other_out, other_said) = launch(["train", "arm", *options.split()], tmp_path / "said")
    assert (out, other_out) == ("2 0 2\n", "1 0 1\n"), said + other_said
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == files
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-5)
    two = json.loads((tmp_path / "two" / "training.json").read_text())
    assert two["settings"] == json.loads(json.dumps(one["settings"]))
    for name in ("steps", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4), name
    lines = [line for line in said.splitlines() if line.startswith("genarm")]
    assert len(lines) == len(set(lines)) == 1 + (3 + 1 + 1 + 1) + 1, said
    assert "objective is 'a=b'" in lines[0] and "another beta" in lines[-1]
    assert "genarm" not in other_said
