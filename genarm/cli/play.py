"""`genarm play`: a page with sliders, on which weights are chosen by eye."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..embedded import BASE_MIN_P, REWARDS
from ..errors import InvalidArgumentError, RunError
from . import options as given
from .console import say
from .options import ModelOptions

if TYPE_CHECKING:
    from ..models.sources import RewardChoice
    from ..play.settings import PlaySettings

EMBEDDED = {**dict.fromkeys(REWARDS, 0.0), "art": 1.0}  # what the page begins with
EXAMPLES: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("I really enjoy", {"art": 1.0}),
    ("On a free day I", {"risk": 1.0}),
    ("The most important thing in life is", {"art": 0.7, "risk": 0.7}),
    ("I really enjoy", {"science": 1.5, "agreeableness": -0.5}),
)
PROMPT = "I really enjoy"

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
    beta: given.Beta = 1.0,
    temperature: given.Temperature = 1.0,
    base_min_p: BaseMinP = None,
    max_new_tokens: given.MaxNewTokens = 48,
    seed: given.Seed = 0,
    host: Host = "127.0.0.1",
    port: Port = None,
    open: Open = False,
    max_length: given.MaxLength = 4096,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    check_vocabulary: given.CheckVocabulary = True,
) -> int:
    """Open a page to play with: a slider per reward model, the base's text and the guided one side by side.

    Without --base and --reward it is about the embedded models. Weights and settings given here are what the page
    begins with. Needs the extra `play`: pip install 'genarm[play]'.
    """
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
    settings = {
        "beta": beta,
        "temperature": temperature,
        "base_min_p": (BASE_MIN_P if base is None else 0.0) if base_min_p is None else base_min_p,
        "new_tokens": max_new_tokens,
        "seed": seed,
    }
    return run(models, settings, host, port, open)


def run(models: ModelOptions, settings: dict[str, Any], host: str, port: int | None, opens: bool) -> int:
    """Load the models and serve the page until the process is asked to end; its exit status.

    Raises:
        GenARMError: the models cannot be loaded, Gradio is not installed, or the page cannot be served.
    """
    if find_spec("gradio") is None:
        raise RunError("the page needs Gradio, which is not installed: pip install 'genarm[play]'")
    from ..models.sources import model_path, parse_rewards

    rewards = parse_rewards(models.rewards)
    is_embedded = models.base is None
    defaults = _defaults(rewards, settings, PROMPT if is_embedded else "")
    from ..play.local import LocalWriter
    from ..play.parts import Example
    from ..play.server import is_loopback, launch, wait
    from .loading import load

    decoder = load(models, model_path(models.base), rewards)
    about = f"Base: {'the embedded one' if is_embedded else models.base}, on {decoder.device}."
    writer = LocalWriter(decoder, defaults, about)
    known = defaults.weights.keys()
    examples = [Example(text, weights) for text, weights in EXAMPLES if is_embedded and weights.keys() <= known]
    if not is_loopback(host):
        warnings.warn(
            f"--host {host}: whoever reaches this machine can use the page, which asks for no password", stacklevel=2
        )
    page, address = launch(writer, examples, decoder.max_length, host, port, opens)
    say(f"the page is at {address} (Ctrl-C ends)")
    try:
        wait(page)
    except KeyboardInterrupt as interrupt:  # Ctrl-C or, with a status of its own, SIGTERM: how a server is ended
        return int(getattr(interrupt, "status", 130))


def _defaults(rewards: Sequence[RewardChoice], settings: dict[str, Any], prompt: str) -> PlaySettings:
    """What the page begins with.

    Raises:
        InvalidArgumentError: there is no reward model, or a setting that the page has no place for.
    """
    from ..play.history import default_axes
    from ..play.settings import BETAS, MOST_SEED, NEW_TOKENS, TEMPERATURES, PlaySettings

    if not rewards:
        raise InvalidArgumentError("a base without a reward model: give the page one with --reward NAME=PATH:WEIGHT")
    ranges = {"beta": BETAS, "temperature": TEMPERATURES, "seed": (0, MOST_SEED), "max-new-tokens": NEW_TOKENS}
    for name, (low, high) in ranges.items():
        value = settings["new_tokens" if name == "max-new-tokens" else name]
        if not low <= value <= high:
            raise InvalidArgumentError(f"--{name} is {value:g}: the page's control goes from {low:g} to {high:g}")
    names = [one.name for one in rewards]
    weights = {one.name: one.weight for one in rewards}
    return PlaySettings(prompt=prompt, weights=weights, colour=names[0], axes=default_axes(names), **settings)
