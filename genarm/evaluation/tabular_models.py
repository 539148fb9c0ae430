"""Tables (tabular.py) as models of transformers: a decoder, and every method on it, runs on them as on any other model.

What follows a prompt and some tokens of an answer is looked up in a table by these tokens. A prompt is one token,
whichever it is. The cache holds what an attention layer's would, keys of one number per token, which is the token's
own; so rows may be padded, copied and cut as those of any model on transformers' cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .tabular import Tables

PROMPT = 1  # tokens


class TabularConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Its shape in a transformer's words: one layer with one head, whose keys are one number wide.

    vocab_size: V; length: T, tokens of an answer; rows: prefixes that the table knows; width: numbers of each.
    """

    model_type = "genarm-tabular"

    def __init__(self, vocab_size: int = 2, length: int = 1, rows: int = 1, width: int = 1, **kwargs: Any) -> None:
        self.vocab_size, self.length, self.rows, self.width = vocab_size, length, rows, width
        self.num_hidden_layers = self.num_attention_heads = self.num_key_value_heads = self.head_dim = 1
        self.hidden_size, self.max_position_embeddings = width, PROMPT + length
        super().__init__(**kwargs)


class TabularModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A table of one row per prefix, shorter prefixes first: the hidden state behind a token is its prefix's row.

    Prefixes are numbered as nodes of a tree: the empty one is 0, and (prefix n, v) is n·V + 1 + v. Nodes beyond the
    table have its last row.
    """

    config_class = TabularConfig
    base_model_prefix = "model"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, 1)
        self.table = nn.Embedding(config.rows, config.width)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Ids [B, Q], behind what the cache holds -> hidden states [B, Q, width]."""
        keys = self.embed_tokens(input_ids)[:, None]
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if past_key_values is not None:
            keys, _ = past_key_values.update(keys, keys, 0)
        ids = keys[:, 0, :, 0].round().long()
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        nodes = self._nodes(ids, mask)[:, -input_ids.shape[1] :]
        states = self.table(nodes.clamp(max=self.config.rows - 1))
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values)

    def _nodes(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The prefix that ends at each token, [B, L]; of padding and of the prompt it is the empty one."""
        answers = (mask != 0) & (mask.cumsum(1) > PROMPT)
        node, found = torch.zeros_like(ids[:, 0]), []
        for token, inside in zip(ids.unbind(1), answers.unbind(1), strict=True):
            node = torch.where(inside, node * self.config.vocab_size + 1 + token, node)
            found.append(node)
        return torch.stack(found, 1)


class TabularLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A causal LM over V ids whose next-token logits are those of the tables it is made from (`lm_from_tables`), or a
    trajectory RM or value head that says one number of every prefix (`scorer_from_values`).

    There is no end-of-sequence token: decode exactly T tokens.
    """

    config_class = TabularConfig
    base_model_prefix = "model"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.model = TabularModel(config)
        self.lm_head = nn.Linear(config.width, config.width, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Ids [B, Q] -> logits [B, Q, width], or of the last ``logits_to_keep`` tokens."""
        out = self.model(input_ids, attention_mask, past_key_values, use_cache)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)


def lm_from_tables(tables: Tables, dtype: torch.dtype = torch.float32) -> TabularLM:
    """A model whose logits behind each prefix are its row of ``tables`` (finite), rounded to ``dtype``. Behind a whole
    answer every id is as likely as another."""
    V = tables[0].shape[1]
    return _model(V, len(tables), torch.cat([*tables, torch.zeros(1, V, dtype=tables[0].dtype)]), dtype)


def scorer_from_values(vocab_size: int, values: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> TabularLM:
    """A model with a head of width 1, whose number behind each prefix is that of ``values``: T + 1 tensors [V^t] for t
    = 0 … T, as `TabularProblem.values` and `TabularProblem.expected_rewards` are. It says 0 of longer texts."""
    rows = torch.cat([*values, torch.zeros(1, dtype=values[0].dtype)])[:, None]
    return _model(vocab_size, len(values) - 1, rows, dtype)


def _model(vocab_size: int, length: int, rows: Tensor, dtype: torch.dtype) -> TabularLM:
    model = TabularLM(TabularConfig(vocab_size, length, len(rows), rows.shape[1]))
    nn.Module.to(model, dtype)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.arange(vocab_size)[:, None])
        model.model.table.weight.copy_(rows)
        model.lm_head.weight.copy_(torch.eye(rows.shape[1]))
    nn.Module.eval(model)
    return model
