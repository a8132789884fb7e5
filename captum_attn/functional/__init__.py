"""All mathematics, as pure functions of tensors: definitions, sources, shapes. No model is in sight.

Games on influence and their Shapley values (``games``, ``estimators``), maximum flows through attention (``flows``),
faithfulness and plausibility of scores (``faithfulness``, ``plausibility``), rankings and how far they agree
(``rankings``), how far distributions are apart (``divergence``), concepts' effects and how sure they are
(``significance``), means over inputs (``means``). Needs torch and SciPy alone.
"""

from captum_attn.functional.divergence import jensen_shannon, total_variation
from captum_attn.functional.estimators import (
    CharacteristicFunction,
    ShapleyEstimate,
    kernel_shapley,
    permutation_shapley,
)
from captum_attn.functional.faithfulness import (
    PERCENTAGES,
    SCALES,
    Scale,
    aopc,
    area_under_curve,
    check_percentages,
    check_probabilities,
    check_scale,
    log_odds,
    mean_drop,
)
from captum_attn.functional.flows import barrier_flow, maximum_flows
from captum_attn.functional.games import (
    ADDITIVE_GAMES,
    GAMES,
    Game,
    coalition_values,
    shapley_interactions,
    shapley_values,
)
from captum_attn.functional.means import Mean, mean_over_inputs
from captum_attn.functional.plausibility import token_auprc, token_f1, token_iou
from captum_attn.functional.rankings import (
    RANKING_METRICS,
    Agreement,
    agreement,
    check_top_k,
    kendall_tau,
    rank_players,
    reversed_ranks,
    top_and_rest,
    top_count,
    top_k_overlap,
    top_players,
)
from captum_attn.functional.significance import (
    SIGNIFICANT,
    direction_p_value,
    examples_p_values,
    holm,
    t_test_p_values,
)

__all__ = [
    "ADDITIVE_GAMES",
    "GAMES",
    "PERCENTAGES",
    "RANKING_METRICS",
    "SCALES",
    "SIGNIFICANT",
    "Agreement",
    "CharacteristicFunction",
    "Game",
    "Mean",
    "Scale",
    "ShapleyEstimate",
    "agreement",
    "aopc",
    "area_under_curve",
    "barrier_flow",
    "check_percentages",
    "check_probabilities",
    "check_scale",
    "check_top_k",
    "coalition_values",
    "direction_p_value",
    "examples_p_values",
    "holm",
    "jensen_shannon",
    "kendall_tau",
    "kernel_shapley",
    "log_odds",
    "maximum_flows",
    "mean_drop",
    "mean_over_inputs",
    "permutation_shapley",
    "rank_players",
    "reversed_ranks",
    "shapley_interactions",
    "shapley_values",
    "t_test_p_values",
    "token_auprc",
    "token_f1",
    "token_iou",
    "top_and_rest",
    "top_count",
    "top_k_overlap",
    "top_players",
    "total_variation",
]


def __dir__() -> list[str]:
    return __all__
