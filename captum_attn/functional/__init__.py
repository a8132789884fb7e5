"""The mathematics, as pure functions of tensors: definitions, sources, shapes. No model is in sight.

Games on influence and their Shapley values (``games``, ``estimators``), maximum flows through attention (``flows``),
faithfulness and plausibility of scores (``faithfulness``, ``plausibility``), rankings and how far they agree
(``rankings``), how far distributions are apart (``divergence``), other rows of attention (``attention_rows``), scores
and effects of concepts (``tcav``) and how sure these are (``significance``), means over inputs (``means``).
Needs torch and SciPy alone. What is kept of attention tile by tile, while a model runs, is computed in
``captum_attn.core.observers``, which needs torch alone.
"""

from captum_attn.functional.attention_rows import permuted_rows, uniform_rows
from captum_attn.functional.divergence import jensen_shannon, mean_jensen_shannon, total_variation
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
from captum_attn.functional.group_games import group_shapley_values
from captum_attn.functional.means import Mean, mean_over_inputs, mean_over_pairs
from captum_attn.functional.plausibility import (
    energy_pointing_game,
    pointing_game,
    token_auprc,
    token_f1,
    token_iou,
)
from captum_attn.functional.quadrature import gauss_legendre
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
    cauchy_combination,
    direction_p_value,
    examples_p_values,
    holm,
    holm_levels,
    t_test_p_values,
)
from captum_attn.functional.tcav import (
    TCAVScores,
    balanced_accuracy,
    mean_cosine,
    mean_shifts,
    pooled_gradient,
    tcav_scores,
    token_sensitivity,
)
from captum_attn.functional.token_odds import (
    RESPONSE_SCORES,
    ResponseScore,
    ScoreFunction,
    check_response_score,
    response_scores,
)

__all__ = [
    "ADDITIVE_GAMES",
    "GAMES",
    "PERCENTAGES",
    "RANKING_METRICS",
    "RESPONSE_SCORES",
    "SCALES",
    "SIGNIFICANT",
    "Agreement",
    "CharacteristicFunction",
    "Game",
    "Mean",
    "ResponseScore",
    "Scale",
    "ScoreFunction",
    "ShapleyEstimate",
    "TCAVScores",
    "agreement",
    "aopc",
    "area_under_curve",
    "balanced_accuracy",
    "barrier_flow",
    "cauchy_combination",
    "check_percentages",
    "check_probabilities",
    "check_response_score",
    "check_scale",
    "check_top_k",
    "coalition_values",
    "direction_p_value",
    "energy_pointing_game",
    "examples_p_values",
    "gauss_legendre",
    "group_shapley_values",
    "holm",
    "holm_levels",
    "jensen_shannon",
    "kendall_tau",
    "kernel_shapley",
    "log_odds",
    "maximum_flows",
    "mean_cosine",
    "mean_drop",
    "mean_jensen_shannon",
    "mean_over_inputs",
    "mean_over_pairs",
    "mean_shifts",
    "permutation_shapley",
    "permuted_rows",
    "pointing_game",
    "pooled_gradient",
    "rank_players",
    "response_scores",
    "reversed_ranks",
    "shapley_interactions",
    "shapley_values",
    "t_test_p_values",
    "tcav_scores",
    "token_auprc",
    "token_f1",
    "token_iou",
    "token_sensitivity",
    "top_and_rest",
    "top_count",
    "top_k_overlap",
    "top_players",
    "total_variation",
    "uniform_rows",
]


def __dir__() -> list[str]:
    return __all__
