"""GuidedDecoder: a base model and its reward models, ready to decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from .answers import whole_answers
from .checks import EngineName, check_base, check_limits, check_name, check_paths
from .drafting import with_draft
from .engine.batch import Batch, Steps
from .engine.build import EngineSettings, build_engine
from .errors import InvalidArgumentError
from .facts import Described, chosen_models
from .models.causal import CausalModel
from .models.fused.attention import AttentionName
from .models.loading import load_model, load_tokenizer
from .models.options import LoadOptions, Source, make_source
from .models.placement import compute_dtype, execution_device
from .models.plan import Plan
from .models.reward_bases import RewardBases
from .models.rewards import RewardModels, build_models, held_weakly, name_rewards
from .models.vocabulary import ExcludedIds
from .request.inputs import PromptInput
from .request.options import Options, Request, ScoreOptions, prepare
from .request.output import GenerationOutput, ScoreOutput
from .request.responses import Responses
from .scoring import score, score_options
from .streamers import feed


class GuidedDecoder(Described):
    """A frozen base model and K autoregressive reward models over one vocabulary.

    Args:
        base_model: a loaded causal LM of transformers (or a PeftModel).
        reward_models: {name: model}, or a list (named reward_0, …); each a loaded model, a PeftModel, or the path or
            hub id of a full model or of a PEFT LoRA adapter.
        tokenizer: the base's tokenizer, which texts are read and written with, and which is compared with those found
            beside reward models. Not needed to decode ids.
        max_batch_size: sequences decoded at once; larger batches run in chunks with the same result. "auto" takes as
            many as fit the free memory at ``max_length`` tokens each, and more where prompts are held once and these
            fit. None sets no limit: a call is one chunk.
        max_length: prompt plus new tokens, at most; lowered to what tables of positions have. None: those alone.
        engine: "auto" decodes with the fused decoder and CUDA graphs wherever they apply; "eager" without graphs; "hf"
            with transformers' own forward pass.
        attention: what attends from new tokens on CUDA: "kernel" is genarm_kernels.decode_attention, "flash-attn"
            that package's. Prompts take flash-attn wherever it is installed.
        reward_bases: {name: which base that adapter goes on}: "base" is the one given, "own" the one that its
            adapter_config.json names, else a path, a hub id or a loaded model. Left out, it is the one given where the
            adapter fits it, else its own; a warning says so where they differ. `describe` says what runs on what.
        check_vocabulary: compare reward models' tokens with the base's. False: you know that ids mean the same.
    Raises:
        GenARMError: one subclass a cause, before anything is decoded.

    Fused layers of a loaded model share their storage with it: its q, k and v, gate and up projections become views.
    """

    def __init__(
        self,
        base_model: nn.Module,
        reward_models: RewardModels = None,
        tokenizer: Any = None,
        *,
        max_batch_size: int | Literal["auto"] | None = 8,
        max_length: int | None = 4096,
        engine: EngineName = "auto",
        attention: AttentionName = "kernel",
        trust_remote_code: bool = False,
        reward_bases: RewardBases = None,
        check_vocabulary: bool = True,
        _base_name: str | None = None,
        _hub: Mapping[str, Any] | None = None,
        _hold_weakly: bool = False,
    ) -> None:
        check_base(base_model)
        check_limits(max_batch_size, max_length)
        dtype, device = compute_dtype(base_model), execution_device(base_model)
        check_paths(engine, attention, dtype, device)
        source = Source(dtype, device, trust_remote_code, _hub or {})
        base_name = _base_name or getattr(getattr(base_model, "config", None), "_name_or_path", None) or None
        self.tokenizer = tokenizer
        rewards = name_rewards(reward_models)
        models = build_models(base_model, rewards, tokenizer, source, base_name, reward_bases, check_vocabulary)
        if _hold_weakly:
            models = held_weakly(models, base_model, *rewards.values(), *(reward_bases or {}).values())
        self.source, self.settings = source, EngineSettings(engine, attention, max_batch_size, max_length)
        self._run_on(models)

    def _run_on(self, models: list[CausalModel]) -> None:
        self.models, self._parts = models, dict[tuple[object, ...], GuidedDecoder]()
        self.drafts: dict[object, Plan] = {}
        self.engine, self.max_batch_size, self.max_length = build_engine(models, self.settings)
        self._excluded = ExcludedIds(models, self.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        base_model: str | Path,
        reward_models: RewardModels = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        tokenizer: Any = None,
        max_batch_size: int | Literal["auto"] | None = 8,
        max_length: int | None = 4096,
        engine: EngineName = "auto",
        attention: AttentionName = "kernel",
        trust_remote_code: bool = False,
        reward_bases: RewardBases = None,
        check_vocabulary: bool = True,
        **options: Unpack[LoadOptions],
    ) -> GuidedDecoder:
        """Load a base and its reward models from folders or the hub (safetensors only).

        dtype: "bfloat16", "float16", "float32", or "auto" (bfloat16 on CUDA, float32 on the CPU).
        device: "cuda", "cpu", or "auto". The other arguments are those of the class.
        options: ``revision``, ``device_map``, ``quantization_config`` and the like, for the base, and ``token`` and
            the like, for whatever comes from the hub, as transformers' ``from_pretrained`` takes them
            (``genarm.models.options.LoadOptions`` lists them). Load a reward model yourself to give it other ones.
        """
        source = make_source(dtype, device, trust_remote_code, options)
        check_name(base_model)
        return cls(
            load_model(base_model, source),
            reward_models,
            tokenizer if tokenizer is not None else load_tokenizer(base_model, trust_remote_code, source.hub),
            max_batch_size=max_batch_size,
            max_length=max_length,
            engine=engine,
            attention=attention,
            trust_remote_code=trust_remote_code,
            reward_bases=reward_bases,
            check_vocabulary=check_vocabulary,
            _base_name=str(base_model),
            _hub=source.of_rewards().options,
        )

    def generate(
        self, input_ids: PromptInput, attention_mask: Tensor | None = None, **options: Unpack[Options]
    ) -> GenerationOutput:
        """Draw sequences from the guided distribution p(y_t) ∝ exp((1/T) Σ_m w_m log p_m(y_t)).

        Args:
            input_ids: the prompts: a text or a list of texts; a conversation ([{"role": …, "content": …}, …], through
                the tokenizer's chat template) or a list of them; what a tokenizer returned (a BatchEncoding); or ids,
                as [B, T] int64, left- or right-padded as ``attention_mask`` [B, T] says, or a list of B prompts.
                Without a mask, runs of the pad id at either end are padding where that id is neither BOS nor EOS.
                Texts have one BOS, if the tokenizer adds one, and no EOS; one that a template rendered is read as such.
            weights: {name: weight}, 0 for reward models it does not name; a list with one such dict per sequence, or
                numbers [K] or [B, K]; default 1 each.
            preferences: {name: {objective: share of 1}} of reward models that are conditioned on one, for all sequences
                or a list with one such dict per sequence.
            beta, base_weight: what divides the reward weights, and the base's weight, any sign; numbers or [B].
            guide_when: {"entropy": nats} or {"top_probability": p}, numbers or [B], or a list with one such dict per
                sequence: the base draws alone where its entropy is under, or its top probability over, that.
            reward_prompts: {name: prompts in any of these forms}, a stream's own prompt, texts read by the base's
                tokenizer; default the base's prompt.
            max_new_tokens: at most so many tokens per row.
            temperature, top_k, top_p, min_p, base_min_p, base_top_p: see ``genarm_kernels.guided_sample``.
            repetition_penalty: as Hugging Face's, on the combined scores; a number or [B].
            logit_bias: {token id: bias} or a tensor [V] or [B, V], added to the scores.
            allowed_tokens: the only ids that may be drawn.
            seed: a batch seed (row b draws with row_seeds(seed, B)[b]) or [B] row seeds; None draws one from torch.
            eos_token_id: an id or several; None takes the base's, [] never stops.
            stop: strings and sequences of token ids that end a row once it has generated one of them; a string is
                looked for in the decoded text, across tokens. ``tokens`` include what completed it, ``texts`` are cut
                before a string.
            num_return_sequences: sequences per prompt, m: row b·m + j is the j-th of prompt b. What is given per prompt
                is repeated; seeds are one per row.
            streamer, return_logprobs: a Hugging Face streamer; fill ``logprobs`` and ``model_logprobs``.
            return_normalizers: fill ``log_normalizers``.
            particles: N, draw answers from the product over whole answers rather than token by token: N rows of each
                prompt, weighed by their normalisers and resampled as they go, of which an answer is drawn by weight
                (m of them for ``num_return_sequences``; seeds are one per prompt then). Fills ``log_evidence``. They
                are decoded together, more than ``max_batch_size`` too. With them:
            resample_below, resample_every: resample where the effective sample size is under that share of N (0 never,
                1 always), looked at every so many tokens.
            terminal: a reward r on finished answers multiplies their weights by exp(r / beta): a trajectory RM, as a
                path or loaded, or a function from texts (or texts and prompts) to numbers.
            length_bonus: nats per token added to log-weights.
            return_particles: fill ``particles``.
            speculate: "ngram", "reward" (a reward model with weights of its own), a small causal LM, or {"draft": one
                of these, "gamma": 1 to 7 tokens per step or "auto"}: draft tokens ahead and verify them in one pass.
                The text is the one without, sooner where drafts are right (docs/speculation.md).
        Returns:
            GenerationOutput. A failed row costs no other row its result.
        Raises:
            GenARMError: the call itself is invalid, or every row failed.
        Source: GenARM (ICLR 2025), equation for multi-objective decoding; ``particles``: docs/particles.md.
        """
        streamer = options.pop("streamer", None)
        return self.run(self.prepare(input_ids, attention_mask, **options), streamer)

    def stream(self, input_ids: PromptInput, attention_mask: Tensor | None = None, **options: Unpack[Options]) -> Steps:
        """As ``generate``, one StreamStep per decoding step, with the new tokens and the new text of each row. The
        arguments are checked before this returns.

        A stream left half-way has its cache, and the decoder's CUDA graphs, until its ``close()``, the end of ``with
        decoder.stream(...) as steps:`` or of the last reference to it; meanwhile other calls run without them.
        """
        if options.pop("streamer", None) is not None:
            raise InvalidArgumentError("stream() yields the steps itself: leave streamer out, or call generate()")
        return self.start(self.prepare(input_ids, attention_mask, **options)).steps()

    def score(
        self,
        prompts: PromptInput,
        responses: Responses,
        attention_mask: Tensor | None = None,
        **options: Unpack[ScoreOptions],
    ) -> ScoreOutput:
        """Log-probabilities of given responses: under the guided distribution, and under each model alone.

        Args:
            prompts: in any form that ``generate`` takes. A single one stands before all responses.
            responses: B texts, or token ids (a list of 1-D tensors or lists, such as ``GenerationOutput.tokens``, or
                [B, n] padded as prompts may be). A text becomes the tokens that spell it behind its prompt, without
                EOS: write it out where it is to count.
            options: those of ``generate`` that shape the distribution, from ``weights`` to ``allowed_tokens`` but for
                ``max_new_tokens``. At temperature 0 the distribution is the unfiltered one at temperature 1.
        Returns:
            ScoreOutput. A failed row costs no other row its result.
        Raises:
            GenARMError: the call itself is invalid, or every row failed.
        """
        request = self.prepare(prompts, attention_mask, **score_options(prompts, responses, options))
        return score(self.engine, self.facts(), self.max_batch_size, request, responses)

    def prepare(
        self, input_ids: PromptInput, attention_mask: Tensor | None = None, **options: Unpack[Options]
    ) -> Request:
        """Check a call's arguments once and turn them into what the loop reads."""
        request = with_draft(self, prepare(self.facts(), input_ids, attention_mask, options))
        self._excluded.tell(request.guidance.weights, request.eos_ids)
        return request

    def only(self, *names: str) -> GuidedDecoder:
        """A decoder of the same base with these reward models alone, in this order; without names, plain decoding. It
        shares the weights, reads no model that it does not have, has caches of its own, and is made once."""
        return self.part(("only", *names), lambda: chosen_models(self.models, names))

    def part(self, key: tuple[object, ...], models: Callable[[], list[CausalModel]]) -> GuidedDecoder:
        """A decoder of other ``models``, the first as its base, made once for a ``key``."""
        if key not in self._parts:
            made = copy(self)
            made._run_on(models())
            self._parts[key] = made
        self._parts[key].tokenizer = self.tokenizer  # which may have been set since
        return self._parts[key]

    def refresh(self) -> None:
        """Read the models anew at the next call.

        A decoder notices by itself whatever PyTorch, PEFT and transformers do to a model between two calls: training,
        moving, casting, adapters switched, hooks put on. This is for what leaves no trace: files' adapters whose
        tensors somebody wrote to, a forward pass patched for a whole class.
        """
        for one in (self, *self._parts.values()):
            one.engine.refresh()

    def release(self) -> None:
        """Give caches and captured steps back; the next call makes them anew. A call on its way keeps its own until it
        ends."""
        for one in (self, *self._parts.values()):
            one.engine.release()

    def start(self, request: Request) -> Batch:
        """A prepared request as a batch: ``steps()`` as of ``stream``, then ``output()`` as of ``generate``."""
        if request.particles is not None:
            raise InvalidArgumentError(
                "particles show nothing before their end, when an answer is drawn: leave stream() and streamer out"
            )
        return Batch(self.engine, self.max_batch_size, request)

    def run(self, request: Request, streamer: Any = None) -> GenerationOutput:
        """Decode a prepared request to its end."""
        if request.particles is not None and streamer is None:
            return whole_answers(self, request)
        batch = self.start(request)
        if streamer is None:
            return batch.run()
        feed(streamer, batch, request, self.max_batch_size)
        return batch.output()
