"""Any attribution of tokens as a LightningModule, for ``trainer.predict``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from captum_attn import ShapleyGradAttention, TokenAttributions
from captum_attn.bench import TokenAttribution, read_together
from captum_attn.core import (
    ModelInputs,
    as_index,
    class_names,
    config_of,
    configured_names,
    is_index,
    mapping_inputs,
    special_ids_of,
    unwrapped,
)
from captum_attn.core.tokens import find_players, real_tokens
from lightning_callbacks.attribution_table import attribution_table
from lightning_callbacks.batches import BatchInputs, LabelledInputs, labelled_inputs
from lightning_callbacks.classes import class_number
from lightning_callbacks.explaining_module import ExplainingModule, check_drawn, explained_by
from lightning_callbacks.method_factories import built, tokenizer_of
from lightning_callbacks.plain_settings import plain

Target = int | str | tuple[int, int | str] | None


class AttributionModule(ExplainingModule):
    """A model whose ``predict_step`` explains a batch: ``trainer.predict`` then explains a data set.

    Batches are texts, what a tokenizer or an image processor returns, a tensor, or (features, labels), where a mask
    may stand between text and labels. Labels, under the name ``labels`` or ``label``, are kept and do not go to the
    model, nor does what it does not take. What else a batch may hold, such as indices or weights, is refused where it
    has no name: ``batch_inputs`` gives it one, or leaves it out. Texts without a word get zeros where ``processor`` is
    a tokenizer and ``method`` is built here. The model is left as it was; only its device, and under
    ``precision="64-true"`` and the like its dtype, are Lightning's.

    Args:
        model: a Hugging Face model or any ``nn.Module`` that ``method`` explains.
        method: a class of attributions such as :class:`captum_attn.ShapleyGradAttention`, with other arguments by
            ``functools.partial``; a function of the model (and its ``tokenizer``, if it takes one) that returns one; or
            an attribution of the same model, already built. It must have ``attribute_tokens``.
        processor: the tokenizer, which reads texts, names tokens and knows the special ones. Image processors
            are taken and not used: batches hold processed pixels.
        target: what is explained: a class, by number or by its name in the configuration, a tuple (token, class),
            ``"label"`` for each input's own label, or None for the predicted class.
        batch_inputs: makes of a batch of another form one that is understood.

    Raises:
        MisconfigurationException: arguments that are none of the above.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from torch.utils.data import DataLoader
        >>> from lightning_callbacks import AttributionModule
        >>> loader = DataLoader(["a gripping film", "not good at all"], batch_size=2)
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        >>> (table,) = trainer.predict(AttributionModule(model, processor=tokenizer), loader)
        >>> table.select(["tokens", "target_name"]).to_pylist()[0]
        {'tokens': ['[CLS]', 'a', 'gripping', 'film', '[SEP]'], 'target_name': 'positive'}
    """

    def __init__(
        self,
        model: nn.Module,
        method: Any = ShapleyGradAttention,
        *,
        processor: Any | None = None,
        target: Target = None,
        batch_inputs: BatchInputs | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise MisconfigurationException(
                f"model must be an nn.Module, got {type(model).__name__}; of a pipeline, give pipeline.model"
            )
        if batch_inputs is not None and not callable(batch_inputs):
            raise MisconfigurationException(
                f"batch_inputs must be a function from a batch to a mapping of inputs, got {batch_inputs!r}"
            )
        self.model = model
        self.tokenizer = tokenizer_of(processor)
        self.target, self.batch_inputs = _checked_target(target, model), batch_inputs
        self._class_name = None if target == "label" else _class_name(target)
        self.attribution = _attribution(method, model, self.tokenizer)
        self._special_ids = None if self.attribution is method else special_ids_of(self.tokenizer)

    def explained(self, batch: Any, wanted: list[bool] | None) -> pa.Table:
        """The table of one batch, B rows of the columns that :func:`lightning_callbacks.read_attributions` lists."""
        texts = isinstance(batch, list | tuple) and all(isinstance(one, str) for one in batch)
        if texts and self.tokenizer is not None:
            batch = read_together(self.model, self.tokenizer, list(batch)).mapping()
        given = labelled_inputs(batch, self.model, self.batch_inputs)
        check_drawn(len(given), wanted)
        return self._explained(given if wanted is None or all(wanted) else given.rows(wanted))

    def settings(self) -> dict[str, Any]:
        """What the explanations depend on, beside the inputs, as JSON has it.

        Returns:
            The model's class and fingerprint, the method and its settings, the target, the configuration's names of
            classes.
        """
        return {
            **explained_by(self.model, self.attribution, left_out=("forward_func", "processor")),
            "target": plain(self.target),
            "class_names": configured_names(self.model),
        }

    def _explained(self, given: LabelledInputs) -> pa.Table:
        batch, config = mapping_inputs(self.model, given.inputs), config_of(self.model)
        result, real = self._attributed(given, batch)
        if self._class_name is not None:
            class_number(self.model, self._class_name, result.output.shape[-1])
        return attribution_table(
            result,
            real=real,
            ids=batch.features if batch.modality == "ids" else None,
            tokenizer=self.tokenizer,
            class_names=class_names(self.model, result.output.shape[-1]),
            labels=given.labels,
            multi_label=getattr(config, "problem_type", None) == "multi_label_classification",
            image_size=batch.features.shape[-2:] if batch.modality == "pixels" else None,
        )

    def _attributed(self, given: LabelledInputs, batch: ModelInputs) -> tuple[TokenAttributions, Tensor]:
        """The attributions of B inputs, and which of their tokens are no padding, bool (B, N)."""
        target = self._target_of(given)
        if batch.is_cut:
            result: TokenAttributions = self.attribution.attribute_tokens(given.inputs, target=target)
            return result, torch.ones_like(result.players)
        real = real_tokens(batch, batch.features.shape[1], config_of(self.model))
        players = self._players(batch, real)
        if players is None or players.any(-1).all():
            return self.attribution.attribute_tokens(given.inputs, target=target), real
        idle = ~players.any(-1, keepdim=True)  # all of an idle text plays, so that the others can be explained
        inputs = {**given.inputs, "players": torch.where(idle, real, players)}
        result = self.attribution.attribute_tokens(inputs, target=target)
        return replace(result, values=result.values.masked_fill(idle, 0), players=result.players & ~idle), real

    def _players(self, batch: ModelInputs, real: Tensor) -> Tensor | None:
        """The tokens that play, bool (B, N), where that is known beforehand."""
        if self._special_ids is None or batch.modality != "ids":
            return None
        return find_players(batch, real, special_ids=self._special_ids, config=None, causal=False)

    def _target_of(self, given: LabelledInputs) -> Any:
        if self.target != "label":
            return self.target
        if given.labels is None:
            raise ValueError("target='label', but the batch has no labels: expected them under 'labels' or 'label'")
        return given.labels


def _checked_target(target: Any, model: nn.Module) -> Target:
    if isinstance(target, tuple) and len(target) == 2 and is_index(target[0]):
        token, of_token = target
        if isinstance(of_token, str) or is_index(of_token):
            return as_index(token), class_number(model, of_token) if isinstance(of_token, str) else as_index(of_token)
    if is_index(target):
        return as_index(target)
    if target is None or isinstance(target, str):
        return target if target in (None, "label") else class_number(model, target)
    raise MisconfigurationException(
        f"target is {target!r}, expected a class, by number or name, a tuple (token, class), 'label' for each input's "
        "own label, or None for the predicted class"
    )


def _class_name(target: Any) -> str | None:
    """The name in a target; None if its class is a number."""
    last = target[-1] if isinstance(target, tuple) else target
    return last if isinstance(last, str) else None


def _attribution(method: Any, model: nn.Module, tokenizer: Any | None) -> Any:
    """The method for this model, built if it is not yet."""
    if not isinstance(method, type) and isinstance(method, TokenAttribution):
        if unwrapped(getattr(method, "forward_func", model)) is not unwrapped(model):
            raise MisconfigurationException(
                f"method is a {type(method).__name__} of another model: expected one of the model given, or the class"
            )
        return method
    if not callable(method):
        raise MisconfigurationException(
            f"method is {method!r}, expected a class or function of the model (and its tokenizer, if it takes one), or "
            "an attribution with attribute_tokens"
        )
    made = built(method, model, tokenizer)
    if not isinstance(made, TokenAttribution):
        raise MisconfigurationException(
            f"method makes a {type(made).__name__}, which has no attribute_tokens: expected an attribution of tokens "
            "such as captum_attn.ShapleyGradAttention"
        )
    return made
