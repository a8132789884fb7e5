"""The attention-gradient core: see attention and its gradients, and play games on them. Needs torch alone."""

from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import AttentionCapture
from captum_attn.core.games import GAMES, coalition_values, shapley_interactions, shapley_values
from captum_attn.core.inputs import ModelInputs, mapping_inputs, tensor_inputs
from captum_attn.core.observers import InfluenceObserver
from captum_attn.core.run import ObservedForward, observed_forward
from captum_attn.core.tiles import Tile

__all__ = [
    "GAMES",
    "AttentionCall",
    "AttentionCapture",
    "InfluenceObserver",
    "ModelInputs",
    "ObservedForward",
    "Tile",
    "coalition_values",
    "mapping_inputs",
    "observed_forward",
    "shapley_interactions",
    "shapley_values",
    "tensor_inputs",
]
