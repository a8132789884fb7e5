"""The attention-gradient core: see attention and its gradients. Needs torch alone."""

from captum_attn._moved import moved_names
from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import AttentionCapture
from captum_attn.core.inputs import ModelInputs, mapping_inputs, tensor_inputs
from captum_attn.core.observers import InfluenceObserver, LayerObserver, Watched
from captum_attn.core.run import ObservedForward, observed_forward
from captum_attn.core.tiles import Tile

__all__ = [
    "AttentionCall",
    "AttentionCapture",
    "InfluenceObserver",
    "LayerObserver",
    "ModelInputs",
    "ObservedForward",
    "Tile",
    "Watched",
    "mapping_inputs",
    "observed_forward",
    "tensor_inputs",
]

__getattr__ = moved_names(
    __name__, "captum_attn.functional", {"GAMES", "coalition_values", "shapley_interactions", "shapley_values"}
)


def __dir__() -> list[str]:
    return __all__
