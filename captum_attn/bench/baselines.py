"""Captum's own methods as baselines for :func:`~captum_attn.metrics.evaluate`: one score for each token.

Captum's implementations run as they are. :class:`GradientBaseline` gives them embeddings or pixels and sums over their
width; :class:`PerturbationBaseline` gives them a function of which tokens are kept, so that they take tokens away as
the metrics do.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from captum.attr import (
    Attribution,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from torch import Tensor

from captum_attn.bench.masked_model import MaskedModel, check_masked
from captum_attn.bench.method_scores import Scorer, patch_scores
from captum_attn.core import ModelInputs, evaluation_mode, parameter_names, same_random_state
from captum_attn.core.inputs import constant
from captum_attn.core.perturb import replace_tokens
from captum_attn.core.scores import output_scores
from captum_attn.functional import CharacteristicFunction


def captum_baselines(masked: MaskedModel, samples: int = 100, seed: int = 0) -> dict[str, Scorer]:
    """Captum's usual methods, by name.

    Args:
        masked: the model, and how tokens are taken away.
        samples: model evaluations of each sampling method (Lime, KernelShap, Shapley value sampling), about. Captum's
            Lime is a Lasso, which gives many tokens exactly 0.
        seed: of the sampling methods.

    Raises:
        TypeError, ValueError: no :class:`~captum_attn.bench.MaskedModel`; fewer than one sample.

    Example:
        >>> from captum_attn.bench import MaskedModel
        >>> from captum_attn.metrics import evaluate
        >>> baselines = captum_baselines(MaskedModel(model, tokenizer))
        >>> texts = ["a gripping film", "not good at all"]
        >>> result = evaluate(model, texts, baselines, tokenizer=tokenizer, show_progress=False)
        >>> result.methods[:3]
        ('Saliency', 'InputXGradient', 'IntegratedGradients')
    """
    check_masked(masked)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return {
        "Saliency": GradientBaseline(Saliency, masked),
        "InputXGradient": GradientBaseline(InputXGradient, masked),
        "IntegratedGradients": GradientBaseline(IntegratedGradients, masked, n_steps=20),
        "FeatureAblation": PerturbationBaseline(FeatureAblation, masked),
        "Occlusion": PerturbationBaseline(Occlusion, masked, sliding_window_shapes=(3,)),
        "Lime": PerturbationBaseline(Lime, masked, seed=seed, n_samples=samples),
        "KernelShap": PerturbationBaseline(KernelShap, masked, seed=seed, n_samples=samples),
        "ShapleyValueSampling": PerturbationBaseline(ShapleyValueSampling, masked, seed=seed, evaluations=samples),
    }


class GradientBaseline:
    """One of captum's gradient methods, on embeddings or pixels, explaining the logit of the target.

    A method that has ``baselines`` starts from the input with all players replaced, with which the metrics compare.

    Args:
        attribution: captum's class: ``Saliency``, ``InputXGradient``, ``IntegratedGradients``, ...
        masked: the model, and what replaces tokens. A model of text must take ``inputs_embeds``.
        settings: other arguments of its ``attribute``, such as ``n_steps``.

    Raises:
        ValueError: a model of text that takes no embeddings.

    Example:
        >>> from captum.attr import Saliency
        >>> from captum_attn.bench import MaskedModel
        >>> saliency = GradientBaseline(Saliency, MaskedModel(model, tokenizer))
        >>> saliency(batch, torch.tensor([1, 0])).shape
        torch.Size([2, 6])
    """

    def __init__(self, attribution: type[Attribution], masked: MaskedModel, **settings: Any) -> None:
        check_masked(masked)
        self.attribution, self.masked, self.settings = attribution, masked, settings

    def __call__(self, batch: Mapping[str, Any], targets: Tensor) -> Tensor:
        """Scores (B, N) of a batch's tokens, for the targets int64 (B,)."""
        with torch.inference_mode(False):
            return self._values({name: constant(column) for name, column in batch.items()}, constant(targets))

    def _values(self, batch: Mapping[str, Any], targets: Tensor) -> Tensor:
        whole, model = self.masked.read(batch), self.masked.model
        inputs, settings = whole.inputs, dict(self.settings)
        taken = inspect.signature(self.attribution.attribute).parameters
        if "baselines" in taken:
            replaced = replace_tokens(inputs, whole.players, self.masked.replacement(whole), whole.grid, whole.picture)
            settings["baselines"] = self._features(replaced)
        if "internal_batch_size" in taken:
            settings["internal_batch_size"] = max(self.masked.batch_size, len(inputs))
        name = (inputs.name or "pixel_values") if inputs.is_cut else "inputs_embeds"

        def logits(features: Tensor, examples: Tensor) -> Tensor:
            try:
                output = model(**{name: features}, **inputs[examples].keywords)
            except NotImplementedError as error:
                raise ValueError(_NO_EMBEDDINGS.format(type(model).__name__)) from error
            return output_scores(output, len(features))

        with evaluation_mode(model), torch.enable_grad():
            examples = torch.arange(len(inputs), device=targets.device)
            if inputs.modality == "ids" and not _all_real(inputs):
                with torch.no_grad():
                    _check_same_output(logits(self._features(inputs), examples), whole.probabilities)
            values: Tensor = self.attribution(logits).attribute(
                self._features(inputs).clone().requires_grad_(),
                target=targets,
                additional_forward_args=(examples,),
                **settings,
            )
        if whole.grid is None:
            return values.detach().sum(-1)
        return patch_scores(values.detach(), whole.grid, whole.players.shape[1])

    def _features(self, inputs: ModelInputs) -> Tensor:
        if inputs.is_cut:
            return inputs.features
        model: Any = self.masked.model
        if "inputs_embeds" not in parameter_names(model) or not hasattr(model, "get_input_embeddings"):
            raise ValueError(_NO_EMBEDDINGS.format(type(model).__name__))
        embeddings: Tensor = model.get_input_embeddings()(inputs.features).detach()
        return embeddings


_NO_EMBEDDINGS = "{} takes no inputs_embeds, which gradient baselines of text need"


def _all_real(inputs: ModelInputs) -> bool:
    mask = inputs.keywords.get("attention_mask")
    return not isinstance(mask, Tensor) or bool(mask.all())


def _check_same_output(logits: Tensor, probabilities: Tensor) -> None:
    """Raise ``ValueError`` where embeddings of a padded batch say something else than its ids."""
    if not torch.allclose(logits.to(probabilities.dtype).softmax(-1), probabilities, atol=0.01):
        raise ValueError(
            "the model's output for embeddings differs from that for token ids: it finds the last token of a text by "
            "the ids of padding, which embeddings lack. Pad on the left (tokenizer.padding_side = 'left'), or explain "
            "one text at a time"
        )


class CoalitionBaseline(ABC):
    """A method that asks for the probability of the target as a function of the tokens that are kept.

    Args:
        masked: the model, and how tokens are taken away.
        seed: of what the method draws, for each input anew.
    """

    dtype = torch.float32
    """Of the scores."""

    def __init__(self, masked: MaskedModel, seed: int = 0) -> None:
        check_masked(masked)
        self.masked, self.seed = masked, seed

    def __call__(self, batch: Mapping[str, Any], targets: Tensor) -> Tensor:
        """Scores (B, N) of a batch's tokens, for the targets int64 (B,); the same in each call."""
        whole = self.masked.read(batch)
        scores = torch.zeros(whole.players.shape, dtype=self.dtype, device=whole.players.device)
        with _same_random_numbers(scores):
            for example, members in enumerate(whole.players):
                torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would seed other devices, too
                np.random.seed(self.seed)
                worth = self.masked.worth(whole, example, int(targets[example]))
                ids = whole.inputs.features[example][members].tolist() if whole.grid is None else []
                alone = int(members.sum()) == 1  # many methods have no coalitions to draw from then
                values = _alone(worth) if alone else self.values(worth, int(members.sum()), ids)
                scores[example, members] = values.to(scores)
        return scores

    @abstractmethod
    def values(self, worth: CharacteristicFunction, players: int, ids: Sequence[int]) -> Tensor:
        """Values (n,) of n ≥ 2 players, of which text has the ids."""


class PerturbationBaseline(CoalitionBaseline):
    """One of captum's perturbation methods, on the probability of the target as a function of the tokens that are kept.

    Args:
        attribution: captum's class: ``FeatureAblation``, ``Occlusion``, ``Lime``, ``KernelShap``,
            ``ShapleyValueSampling``.
        masked: the model, and how tokens are taken away.
        evaluations: instead of ``n_samples`` of ``ShapleyValueSampling``, which counts orders of the n players: about
            so many evaluations of the model.
        seed: of what the method draws, for each input anew.
        settings: other arguments of its ``attribute``, such as ``n_samples`` or ``sliding_window_shapes``.

    Example:
        >>> from captum.attr import FeatureAblation
        >>> from captum_attn.bench import MaskedModel
        >>> ablation = PerturbationBaseline(FeatureAblation, MaskedModel(model, tokenizer))
        >>> ablation(batch, torch.tensor([1, 0])).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        attribution: type[Attribution],
        masked: MaskedModel,
        *,
        evaluations: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(masked, seed)
        self.attribution, self.settings, self.evaluations = attribution, settings, evaluations

    def values(self, worth: CharacteristicFunction, players: int, ids: Sequence[int]) -> Tensor:
        settings = dict(self.settings)
        if self.evaluations is not None:
            settings["n_samples"] = max(1, self.evaluations // players)
        if "sliding_window_shapes" in settings:
            settings["sliding_window_shapes"] = (min(players, *settings["sliding_window_shapes"]),)
        method = self.attribution(lambda coalitions: worth(coalitions.bool()))
        values: Tensor = method.attribute(
            torch.ones(1, players), baselines=0, perturbations_per_eval=self.masked.batch_size, **settings
        )
        return values.view(players)


def _alone(worth: CharacteristicFunction) -> Tensor:
    """The value (1,) of the only player: what it adds to nothing."""
    worths = worth(torch.tensor([[False], [True]])).double()
    return worths[1:] - worths[:1]


@contextmanager
def _same_random_numbers(example: Tensor) -> Iterator[None]:
    """Put the random states of torch and NumPy back, from which captum and SHAP draw."""
    state = np.random.get_state()
    try:
        with same_random_state(example):
            yield
    finally:
        np.random.set_state(state)
