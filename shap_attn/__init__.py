"""Attention-game Shapley values in SHAP's workflows and plots: one forward pass, and one backward pass a class.

In the place of ``shap.Explainer(pipeline)``::

    >>> from shap_attn import AttentionExplainer, plots
    >>> explanation = AttentionExplainer(model, tokenizer)(["a gripping film", "not good at all"])
    >>> explanation.shape, explanation.output_names
    ((2, None, 2), ['negative', 'positive'])
    >>> html = plots.text(explanation[:, :, "positive"], display=False)  # without display=False: below the cell

The values are shares of attention's influence, which begins at 0. They do not sum to f(x) − E[f], as SHAP's own do, and
``plots`` labels SHAP's plots so. ``method="integrated_attnlrp"`` is more faithful on most of our data.

- ``AttentionExplainer``: texts, images, sounds and videos; of a language model it makes a ``GenerationExplainer``;
- ``GenerationExplainer``: what each token that a language model wrote was made of;
- ``plots``: SHAP's own, with honest labels; ``relabel`` does it to any figure of SHAP's;
- ``pool``: words of many texts in one table, as ``bar``, ``beeswarm``, ``heatmap`` and ``violin`` take it;
- ``explanation_from_frame``: what ``lightning_callbacks.AttributionWriter`` wrote, as an explanation;
- ``AttentionText``: a hierarchy by attention for SHAP's own Owen values;
- ``PartitionBaseline``, ``ExactBaseline``: SHAP's own explainers beside ours in ``captum_attn.metrics.evaluate``.
"""

from captum_attn._extras import brought_by

with brought_by("shap"):
    from shap_attn import plots
    from shap_attn.explainer import AttentionExplainer
    from shap_attn.frames import explanation_from_frame
    from shap_attn.generation_explainer import GenerationExplainer
    from shap_attn.hierarchy import AttentionText
    from shap_attn.plots import relabel
    from shap_attn.pooling import pool
    from shap_attn.shap_baselines import ExactBaseline, PartitionBaseline

__all__ = [
    "AttentionExplainer",
    "AttentionText",
    "ExactBaseline",
    "GenerationExplainer",
    "PartitionBaseline",
    "explanation_from_frame",
    "plots",
    "pool",
    "relabel",
]


def __dir__() -> list[str]:
    return __all__
