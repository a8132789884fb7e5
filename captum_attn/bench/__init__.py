"""What every measurement stands on: examples, a model whose tokens can be taken away, scores of any method.

``examples`` holds data in batches, with labels, and ``rationales``, what people chose in them; ``masked_model`` a
classifier, and how tokens are taken from its inputs; ``method_scores`` what any method says of each token;
``perturbed_inputs`` what the model says without some of them; ``baselines`` captum's own methods; ``reading`` texts,
images and loaders as a model takes them.
"""

from captum_attn.bench.baselines import CoalitionBaseline, GradientBaseline, PerturbationBaseline, captum_baselines
from captum_attn.bench.examples import (
    Data,
    Examples,
    Rationales,
    batches,
    check_label,
    checked_labels,
    checked_rationales,
    examples_of,
    rationale_fingerprint,
)
from captum_attn.bench.masked_model import INTERVENTIONS, Intervention, MaskedModel, WholeInputs
from captum_attn.bench.method_scores import (
    RANDOM,
    Method,
    Scorer,
    TokenAttribution,
    WithArguments,
    check_methods,
    random_scores,
    token_scores,
)
from captum_attn.bench.perturbed_inputs import PerturbedInputs
from captum_attn.bench.reading import (
    MEDIA,
    OnError,
    Reader,
    UnreadableError,
    check_in_order,
    is_prepared,
    read_sound,
    read_together,
)

__all__ = [
    "INTERVENTIONS",
    "MEDIA",
    "RANDOM",
    "CoalitionBaseline",
    "Data",
    "Examples",
    "GradientBaseline",
    "Intervention",
    "MaskedModel",
    "Method",
    "OnError",
    "PerturbationBaseline",
    "PerturbedInputs",
    "Rationales",
    "Reader",
    "Scorer",
    "TokenAttribution",
    "UnreadableError",
    "WholeInputs",
    "WithArguments",
    "batches",
    "captum_baselines",
    "check_in_order",
    "check_label",
    "check_methods",
    "checked_labels",
    "checked_rationales",
    "examples_of",
    "is_prepared",
    "random_scores",
    "rationale_fingerprint",
    "read_sound",
    "read_together",
    "token_scores",
]


def __dir__() -> list[str]:
    return __all__
