"""`genarm play`: a page with sliders, on which weights are chosen by eye."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ..embedded import BASE_MIN_P, REWARDS
from ..errors import InvalidArgumentError
from . import options as given
from .options import ModelOptions
from .play_page import check_installed, page_defaults, show

EMBEDDED = {**dict.fromkeys(REWARDS, 0.0), "art": 1.0}  # what the page begins with
EXAMPLES: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("I really enjoy", {"art": 1.0}),
    ("On a free day I", {"risk": 1.0}),
    ("The most important thing in life is", {"art": 0.7, "risk": 0.7}),
    ("I really enjoy", {"science": 1.5, "agreeableness": -0.5}),
)
PROMPT = "I really enjoy"

SERVER = "A running server"
LENGTH = 4096

Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=SERVER,
        help="Write with a running `genarm serve` instead of models here; --reward NAME:WEIGHT then weighs its own.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", rich_help_panel=SERVER, envvar="GENARM_API_KEY", help="The server's API key, where it has one."
    ),
]
Beta = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=given.MODELS,
        help="What all reward weights are divided by; above 0.",
        show_default="1, or the server's",
    ),
]
BaseMinP = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0,
        max=1,
        help="Only tokens this likely relative to the base's likeliest, which keeps texts fluent; 0 is off.",
        show_default=f"{BASE_MIN_P} with the embedded base, else 0",
    ),
]
Host = Annotated[
    str, typer.Option(metavar="HOST", help="Where the page is served; another than the default lets others use it.")
]
Port = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=65535, help="The port.", show_default="the first free one of 7860 …"),
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in this machine's browser.")]


def play(
    base: given.Base = None,
    reward: given.Reward = None,
    server: Server = None,
    api_key: ApiKey = None,
    beta: Beta = None,
    temperature: given.Temperature = 1.0,
    base_min_p: BaseMinP = None,
    max_new_tokens: given.MaxNewTokens = 48,
    seed: given.Seed = 0,
    host: Host = "127.0.0.1",
    port: Port = None,
    open: Open = False,
    max_length: given.MaxLength = LENGTH,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    check_vocabulary: given.CheckVocabulary = True,
) -> int:
    """Open a page to play with: a slider per reward model, the base's text and the guided one side by side.

    Without --base, --reward and --server it is about the embedded models. Weights and settings given here are what the
    page begins with. Needs the extra `play`: pip install 'genarm[play]'.
    """
    settings = {"beta": beta, "temperature": temperature, "new_tokens": max_new_tokens, "seed": seed}
    if server is not None:
        of_models = {
            "--base": base,
            "--base-min-p": base_min_p,
            "--reward-base": reward_base,
            "--max-length": max_length != LENGTH,
            "--dtype": dtype != "auto",
            "--device": device != "auto",
            "--trust-remote-code": trust_remote_code,
            "--no-check-vocabulary": not check_vocabulary,
        }
        for option, value in of_models.items():
            if value:
                raise InvalidArgumentError(f"{option} is about models here, and --server has its own: leave it out")
        from .play_served import run as run_served

        return run_served(server, api_key, reward or (), settings, (host, port), open)
    models = ModelOptions(
        base,
        reward or [f"{name}:{weight:g}" for name, weight in EMBEDDED.items() if base is None],
        2,
        max_length,
        dtype,
        device,
        trust_remote_code,
        reward_base or (),
        check_vocabulary,
    )
    settings["beta"] = 1.0 if beta is None else beta
    settings["base_min_p"] = (BASE_MIN_P if base is None else 0.0) if base_min_p is None else base_min_p
    return run(models, settings, (host, port), open)


def run(models: ModelOptions, settings: dict[str, Any], where: tuple[str, int | None], opens: bool) -> int:
    """Load the models and serve the page until the process is asked to end; its exit status.

    Raises:
        GenARMError: the models cannot be loaded, Gradio is not installed, or the page cannot be served.
    """
    check_installed()
    from ..models.sources import model_path, parse_rewards

    rewards = parse_rewards(models.rewards)
    is_embedded = models.base is None
    defaults = page_defaults({one.name: one.weight for one in rewards}, settings, PROMPT if is_embedded else "")
    from ..play.local import LocalWriter
    from ..play.parts import Example
    from .loading import load

    decoder = load(models, model_path(models.base), rewards)
    about = f"Base: {'the embedded one' if is_embedded else models.base}, on {decoder.device}."
    writer = LocalWriter(decoder, defaults, about)
    known = defaults.weights.keys()
    examples = [Example(text, weights) for text, weights in EXAMPLES if is_embedded and weights.keys() <= known]
    return show(writer, examples, decoder.max_length, where, opens)
