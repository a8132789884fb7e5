"""What is kept of each layer's attention A and its gradient G, while they are shown tile by tile.

An observer is made of :meth:`run.watched(layers, heads) <captum_attn.core.ObservedForward.watched>` and what it keeps:

- :class:`InfluenceObserver`: influence A ⊙ G of any sign, its matrix or rows of it;
- :class:`PlacedObserver`: what each key is worth, where it lies, in models without a matrix of all tokens;
- :class:`GatheringObserver`: what each token gathers of it;
- :class:`RelevanceObserver`, :class:`NormalizedRelevanceObserver`: rows of relevance that are pushed down the layers;
- :class:`ReadoutObserver`: the readout's attention, beside gradients of hidden states;
- :class:`NormObserver`: how long the vectors are that attention mixes;
- your own :class:`LayerObserver`.
"""

from captum_attn._moved import moved_names
from captum_attn.core.observers.influence import (
    PER,
    VARIANTS,
    InfluenceObserver,
    Per,
    Variant,
    check_variant,
    influence_in,
)
from captum_attn.core.observers.norms import (
    ContributionForm,
    NormObserver,
    contribution_form,
    contribution_norms,
)
from captum_attn.core.observers.placed import PlacedObserver
from captum_attn.core.observers.readout_gradients import ReadoutGradients, ReadoutObserver
from captum_attn.core.observers.relevance import NormalizedRelevanceObserver, RelevanceObserver
from captum_attn.core.observers.row_sums import GatheringObserver
from captum_attn.core.observers.watched import LayerObserver, Watched

__all__ = [
    "PER",
    "VARIANTS",
    "ContributionForm",
    "GatheringObserver",
    "InfluenceObserver",
    "LayerObserver",
    "NormObserver",
    "NormalizedRelevanceObserver",
    "Per",
    "PlacedObserver",
    "ReadoutGradients",
    "ReadoutObserver",
    "RelevanceObserver",
    "Variant",
    "Watched",
    "check_variant",
    "contribution_form",
    "contribution_norms",
    "influence_in",
]

__getattr__ = moved_names(__name__, "captum_attn.core.observers.watched", ["within"])


def __dir__() -> list[str]:
    return __all__
