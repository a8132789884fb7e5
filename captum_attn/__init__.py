"""Why did this transformer say that? What each token, patch or sound was worth, on any model, in Captum's forms.

From a model and its tokenizer to something to look at::

    >>> from captum_attn import AttnLRP
    >>> result = AttnLRP(model, tokenizer=tokenizer).attribute_tokens("a gripping film", target="positive")
    >>> result.top(1)[["token", "target"]].values.tolist()
    [['gripping', 'positive']]
    >>> path = result.to_html("page.html")  # or result.show(), result.plot(), result.frame()

Images go the same way, with ``processor=`` for ``tokenizer=``. ``attribute(inputs, target)`` returns tensors in the
shape of the inputs, as Captum's own methods do.

What each token contributes:

- ``AttnLRP``: relevance of the input, by one forward and one backward pass;
- ``IntegratedAttnLRP``: the same over a few contexts; the most faithful on most of our data, by five passes;
- ``ShapleyGradAttention``: each token's exact share of attention weighted by gradients, which sums to the whole;
- ``ShapleyAttention``: the same of attention alone, without gradients;
- ``MaskTunnel``: the mean of any of these over copies of the input that lack some tokens.

What others have proposed, to compare with:

- ``RawAttention``, ``AttentionRollout``, ``AttentionFlow``, ``NormAttention``: attention, without gradients;
- ``GradSAM``, ``GenericRelevance``, ``GradientAttentionRollout``, ``GeneralizedAttentionFlow``,
  ``IntegratedAttention``: attention and its gradients.

Other questions:

- ``inspect``: is this model seen as it is, and are its gradients right? Ask this first;
- ``compare``: do methods agree, how faithful are they, what do they cost? More in ``captum_attn.metrics``;
- ``GenerationAttention``: where did a language model's answer come from?
- ``TTCAV``: which concepts move a prediction, in which layers, and how sure is that?
- ``captum_attn.controls``: does attention explain at all?
- ``captum_attn.visualization.explore``: a page to click, from whom each token takes and to whom it gives.

``TokenAttributions`` is what ``attribute_tokens`` returns. ``AttentionAttribution``, ``OnePassAttribution`` and
``AttentionShapley`` are what methods are made of, yours too. ``shap_attn`` and ``lightning_callbacks`` bring all this
to SHAP and Lightning.
"""

# Public names are imported when first used, so that captum_attn.core can be had without captum.

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from captum_attn._moved import find_moved_modules

if TYPE_CHECKING:
    from captum_attn.comparison import compare
    from captum_attn.concepts import TTCAV
    from captum_attn.generation import GenerationAttention
    from captum_attn.inspection import inspect
    from captum_attn.methods.attention_flow import AttentionFlow
    from captum_attn.methods.attn_lrp import AttnLRP
    from captum_attn.methods.attribution import AttentionAttribution, OnePassAttribution
    from captum_attn.methods.generalized_attention_flow import GeneralizedAttentionFlow
    from captum_attn.methods.generic_relevance import GenericRelevance
    from captum_attn.methods.grad_sam import GradSAM
    from captum_attn.methods.integrated_attention import IntegratedAttention
    from captum_attn.methods.integrated_attn_lrp import IntegratedAttnLRP
    from captum_attn.methods.mask_tunnel import MaskTunnel
    from captum_attn.methods.norm_attention import NormAttention
    from captum_attn.methods.raw_attention import RawAttention
    from captum_attn.methods.rollout import AttentionRollout, GradientAttentionRollout
    from captum_attn.methods.shapley import AttentionShapley, ShapleyAttention, ShapleyGradAttention
    from captum_attn.token_attributions import TokenAttributions

    __version__: str

__all__ = [
    "TTCAV",
    "AttentionAttribution",
    "AttentionFlow",
    "AttentionRollout",
    "AttentionShapley",
    "AttnLRP",
    "GeneralizedAttentionFlow",
    "GenerationAttention",
    "GenericRelevance",
    "GradSAM",
    "GradientAttentionRollout",
    "IntegratedAttention",
    "IntegratedAttnLRP",
    "MaskTunnel",
    "NormAttention",
    "OnePassAttribution",
    "RawAttention",
    "ShapleyAttention",
    "ShapleyGradAttention",
    "TokenAttributions",
    "compare",
    "inspect",
]

_HOMES = {
    "TTCAV": "captum_attn.concepts",
    "AttentionAttribution": "captum_attn.methods.attribution",
    "AttentionFlow": "captum_attn.methods.attention_flow",
    "AttentionRollout": "captum_attn.methods.rollout",
    "AttentionShapley": "captum_attn.methods.shapley",
    "AttnLRP": "captum_attn.methods.attn_lrp",
    "GeneralizedAttentionFlow": "captum_attn.methods.generalized_attention_flow",
    "GenerationAttention": "captum_attn.generation",
    "GenericRelevance": "captum_attn.methods.generic_relevance",
    "GradSAM": "captum_attn.methods.grad_sam",
    "GradientAttentionRollout": "captum_attn.methods.rollout",
    "IntegratedAttention": "captum_attn.methods.integrated_attention",
    "IntegratedAttnLRP": "captum_attn.methods.integrated_attn_lrp",
    "MaskTunnel": "captum_attn.methods.mask_tunnel",
    "NormAttention": "captum_attn.methods.norm_attention",
    "OnePassAttribution": "captum_attn.methods.attribution",
    "RawAttention": "captum_attn.methods.raw_attention",
    "ShapleyAttention": "captum_attn.methods.shapley",
    "ShapleyGradAttention": "captum_attn.methods.shapley",
    "TokenAttributions": "captum_attn.token_attributions",
    "compare": "captum_attn.comparison",
    "inspect": "captum_attn.inspection",
}
_NEEDS = {"TTCAV": "sklearn", "compare": "torchmetrics"}

find_moved_modules()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("captum-attn")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    missing = {name for name, library in _NEEDS.items() if find_spec(library) is None}  # help() imports what is listed
    return [*(name for name in __all__ if name not in missing), "__version__"]
