"""What a language model wrote, explained for a whole data set, for ``trainer.predict``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

import pyarrow as pa
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn import GenerationAttention
from captum_attn.core.descriptions import described
from captum_attn.generation import ExplainedResponse, Sources
from lightning_callbacks.explaining_module import ExplainingModule, check_drawn, explained_by
from lightning_callbacks.plain_settings import plain

_PARTS = ("prompt", "response", "images", "sources", "question")
_COLUMNS = {
    "prompt": pa.string(),
    "response": pa.string(),
    "tokens": pa.list_(pa.string()),
    "ids": pa.list_(pa.int64()),
    "scores": pa.list_(pa.float32()),
    "prompt_length": pa.int64(),
    "token_scores": pa.list_(pa.float32()),
    "probabilities": pa.list_(pa.float32()),
    "token_source": pa.list_(pa.int64()),
    "patches": pa.list_(pa.int64()),
    "sources": pa.list_(pa.string()),
    "source_scores": pa.list_(pa.float32()),
    "share_outside": pa.float64(),
    "map": pa.list_(pa.list_(pa.float32())),
}


class GenerationModule(ExplainingModule):
    """A language model's explainer, whose ``predict_step`` explains a batch of prompts and responses.

    Batches are lists of mappings, as of a data loader with ``collate_fn=list``, or a mapping of lists: ``prompt``, a
    text or messages; ``response``, a text or ids of tokens, unless the model writes it; perhaps ``images``, as
    :meth:`captum_attn.GenerationAttention.explain` takes them, ``sources`` and ``question``, else of the constructor.
    Other keys are passed over. The model is left as it was; only its device, and
    under ``precision="64-true"`` and the like its dtype, are Lightning's.

    Args:
        explainer: of the model.
        sources, question: of rows that have none of their own; see
            :meth:`captum_attn.GenerationAttention.explain`.
        maps: whether the table has the map of each response's tokens, too; T backward passes for T of them.
        generate: settings of ``model.generate``, such as ``max_new_tokens``. With them, the model writes responses that
            rows do not have.

    Raises:
        MisconfigurationException: arguments that are none of the above.

    Example:
        >>> from captum_attn import GenerationAttention
        >>> from lightning.pytorch import Trainer
        >>> from torch.utils.data import DataLoader
        >>> rows = [{"prompt": "the cat is old . how old is the cat ?", "response": "it is old"}]
        >>> module = GenerationModule(GenerationAttention(decoder, chat_tokenizer))
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        >>> (table,) = trainer.predict(module, DataLoader(rows, batch_size=1, collate_fn=list))
        >>> table.select(["response", "sources"]).to_pylist()
        [{'response': 'it is old', 'sources': ['the cat is old .']}]
    """

    def __init__(
        self,
        explainer: GenerationAttention,
        *,
        sources: Sources = "sentences",
        question: str | None = None,
        maps: bool = False,
        **generate: Any,
    ) -> None:
        super().__init__()
        if not isinstance(explainer, GenerationAttention) or not isinstance(explainer.model, nn.Module):
            raise MisconfigurationException(
                f"explainer must be a captum_attn.GenerationAttention of an nn.Module, got {type(explainer).__name__}"
            )
        for name in ("sources", "question", "maps"):
            if similar := get_close_matches(name, generate, 1, 0.8):
                raise MisconfigurationException(f"unexpected keyword argument {similar[0]!r}: did you mean {name!r}?")
        self.model, self.explainer = explainer.model, explainer
        self.sources, self.question, self.maps, self.generate = sources, question, maps, generate

    def settings(self) -> dict[str, Any]:
        """What the explanations depend on, beside the inputs, as JSON has it."""
        return {
            **explained_by(self.model, self.explainer, left_out=("model", "tokenizer", "reader")),
            "tokenizer": _tokenizer(self.explainer.tokenizer) | _image_processor(self.explainer.reader),
            "sources": plain({"sources": self.sources, "question": self.question, "maps": self.maps}),
            "generate": plain(self.generate and {**self.generate, "default": self._own_generation()}),
        }

    def _own_generation(self) -> Any:
        config = getattr(self.model, "generation_config", None)
        return None if config is None else config.to_diff_dict()

    def explained(self, batch: Any, wanted: list[bool] | None) -> pa.Table:
        """Columns of strings, lists of the prompt's and the response's tokens, and lists of the sources.

        ``tokens``, ``ids`` and ``scores`` are of all tokens, the first ``prompt_length`` of which are the prompt's, and
        ``token_source`` says in which source each is, -1 for none; ``token_scores`` and ``probabilities`` are of the
        response's. ``patches`` are the numbers of the tokens that are parts of images. ``map``, of each of these by all
        tokens, is null unless asked for.
        """
        rows = _rows(batch)
        check_drawn(len(rows), wanted)
        chosen = [row for row, wants in zip(rows, wanted or [True] * len(rows), strict=True) if wants]
        found = [self._table_row(self._explained(row)) for row in chosen]
        return pa.Table.from_pylist(found, pa.schema(list(_COLUMNS.items())))

    def _explained(self, row: Mapping[str, Any]) -> ExplainedResponse:
        given = {name: row[name] for name in _PARTS if row.get(name) is not None}
        if "prompt" not in given:
            raise ValueError(f"a row has no prompt, but {', '.join(map(repr, row)) or 'nothing'}")
        if "response" not in given and not self.generate:
            raise ValueError(
                "a row has no response, and GenerationModule has no settings by which the model would write one, such "
                "as max_new_tokens=50"
            )
        options: dict[str, Any] = {"sources": self.sources, "question": self.question, **given}
        settings = {} if "response" in given else self.generate
        if settings:
            torch.rand(())  # explaining leaves the random state as it was, by which all rows would be sampled alike
        return self.explainer.explain(options.pop("prompt"), options.pop("response", None), **options, **settings)

    def _table_row(self, found: ExplainedResponse) -> dict[str, Any]:
        return {
            "prompt": found.prompt.text,
            "response": found.response,
            "tokens": found.tokens,
            "ids": [*found.prompt.ids, *found.response_ids],
            "scores": found.values.tolist(),
            "prompt_length": len(found.prompt.ids),
            "token_scores": found.scores.tolist(),
            "probabilities": found.probabilities.tolist(),
            "token_source": found.groups.tolist(),
            "patches": found.prompt.patches,
            "sources": [source.text for source in found.sources],
            "source_scores": found.source_values.tolist(),
            "share_outside": found.share_outside,
            "map": found.map.tolist() if self.maps else None,
        }


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What a prompt's tokens depend on."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    for of_a_call in ("truncation", "padding"):
        rules.pop(of_a_call, None)
    digest = sha256(json.dumps(rules, sort_keys=True).encode())
    return {
        "class": plain(type(tokenizer)),
        "chat_template": getattr(tokenizer, "chat_template", None),
        "rules": digest.hexdigest(),
    }


def _image_processor(reader: Any) -> dict[str, Any]:
    """What a prompt's images depend on, where there can be some."""
    processor = getattr(reader, "image_processor", None)
    return {} if processor is None else {"image_processor": plain(processor.to_dict())}


def _rows(batch: Any) -> list[Mapping[str, Any]]:
    """The rows of a batch, of a list as of a mapping of lists."""
    if isinstance(batch, Mapping):
        columns = {name: batch[name] for name in _PARTS if name in batch}
        listed = all(isinstance(column, Sequence) and not isinstance(column, str) for column in columns.values())
        if not listed or any(isinstance(one, Tensor) for column in columns.values() for one in column):
            raise TypeError(
                f"a batch is a list of rows, or a mapping of lists of these, got {described(batch)}: give the data "
                "loader collate_fn=list"
            )
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not isinstance(batch, list | tuple) or not all(isinstance(row, Mapping) for row in batch):
        raise TypeError(
            f"a batch is a list of rows, mappings with prompt and response, got {described(batch)}: give the data "
            "loader collate_fn=list"
        )
    return list(batch)
