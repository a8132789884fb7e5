"""The attention-gradient core: see attention and its gradients. Needs torch alone."""

from captum_attn._moved import moved_names
from captum_attn.core.calls import AttentionCall
from captum_attn.core.capture import AttentionCapture
from captum_attn.core.common_beginnings import response_logits_of_each
from captum_attn.core.encoding import encode, length_limit
from captum_attn.core.forward import check_classes
from captum_attn.core.hashing import add_to_hash, code_fingerprint
from captum_attn.core.indices import as_index, is_index, listed_indices, resolve_indices
from captum_attn.core.inputs import ModelInputs, mapping_inputs, picture_token, tensor_inputs
from captum_attn.core.labels import class_names, class_number, configured_names
from captum_attn.core.models import (
    check_model,
    config_of,
    device_of,
    evaluation_mode,
    fingerprint,
    parameter_names,
    same_random_state,
    unwrapped,
)
from captum_attn.core.no_matrix import NoMatrixError
from captum_attn.core.observers import InfluenceObserver, LayerObserver, ReadoutGradients, Watched
from captum_attn.core.padded_texts import padded
from captum_attn.core.patches import Grid, PatchGrid, PatchLayout, image_grid, known_grid, patch_means, patch_values
from captum_attn.core.perturb import Replacement, seeded
from captum_attn.core.prompt_cache import keys_and_values, reads_cache
from captum_attn.core.response_pass import ResponsePass, response_pass
from captum_attn.core.responses import Responses, check_causal, padded_types, plain_response_logits
from captum_attn.core.run import ObservedForward, observed_forward, picture_grid
from captum_attn.core.states import States
from captum_attn.core.targets import Target, select_target, target_of_each
from captum_attn.core.tiles import Tile
from captum_attn.core.token_names import segment_starts, token_texts, word_boundaries, word_groups
from captum_attn.core.tokens import Tokens, special_ids_of, special_token_ids
from captum_attn.core.user_warnings import warn_user

__all__ = [
    "AttentionCall",
    "AttentionCapture",
    "Grid",
    "InfluenceObserver",
    "LayerObserver",
    "ModelInputs",
    "NoMatrixError",
    "ObservedForward",
    "PatchGrid",
    "PatchLayout",
    "ReadoutGradients",
    "Replacement",
    "ResponsePass",
    "Responses",
    "States",
    "Target",
    "Tile",
    "Tokens",
    "Watched",
    "add_to_hash",
    "as_index",
    "check_causal",
    "check_classes",
    "check_model",
    "class_names",
    "class_number",
    "code_fingerprint",
    "config_of",
    "configured_names",
    "device_of",
    "encode",
    "evaluation_mode",
    "fingerprint",
    "image_grid",
    "is_index",
    "keys_and_values",
    "known_grid",
    "length_limit",
    "listed_indices",
    "mapping_inputs",
    "observed_forward",
    "padded",
    "padded_types",
    "parameter_names",
    "patch_means",
    "patch_values",
    "picture_grid",
    "picture_token",
    "plain_response_logits",
    "reads_cache",
    "resolve_indices",
    "response_logits_of_each",
    "response_pass",
    "same_random_state",
    "seeded",
    "segment_starts",
    "select_target",
    "special_ids_of",
    "special_token_ids",
    "target_of_each",
    "tensor_inputs",
    "token_texts",
    "unwrapped",
    "warn_user",
    "word_boundaries",
    "word_groups",
]

__getattr__ = moved_names(
    __name__, "captum_attn.functional", {"GAMES", "coalition_values", "shapley_interactions", "shapley_values"}
)


def __dir__() -> list[str]:
    return __all__
