"""The public names: one list a package, and old paths that still lead to them."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch

import captum_attn
from captum_attn._moved import MOVED
from captum_attn.concepts.concept_scores import ConceptScores, SetScores
from captum_attn.concepts.confounds import Confounds
from captum_attn.concepts.scoring import EffectPValues
from captum_attn.controls import Counterfactuals
from captum_attn.controls.search import SearchSettings

PACKAGES = (
    "captum_attn",
    *(
        f"captum_attn.{name}"
        for name in (
            "bench",
            "comparison",
            "concepts",
            "controls",
            "core",
            "core.observers",
            "functional",
            "methods",
            "metrics",
        )
    ),
    "lightning_callbacks",
    "shap_attn",
)


FACES = {
    "captum_attn": (
        "TTCAV AttentionAttribution AttentionFlow AttentionRollout AttentionShapley GeneralizedAttentionFlow "
        "GenericRelevance GradSAM GradientAttentionRollout IntegratedAttention MaskTunnel NormAttention "
        "OnePassAttribution RawAttention ShapleyAttention ShapleyGradAttention TokenAttributions compare inspect"
    ),
    "captum_attn.comparison": "Comparison compare",
    "captum_attn.concepts": (
        "TTCAV CAVEstimator CAVs ConceptScores DiscriminantCAVs LogisticCAVs SensitivityMaps UnreadableError "
        "agreement pattern_cavs"
    ),
    "captum_attn.controls": (
        "AttentionEffects ControlResult Correlations Counterfactuals ReadoutAttention SeedVariance "
        "attention_correlation counterfactual_attention jensen_shannon permuted_attention seed_variance "
        "total_variation uniform_attention"
    ),
    "captum_attn.core": (
        "GAMES AttentionCall AttentionCapture InfluenceObserver ModelInputs ObservedForward Tile coalition_values "
        "mapping_inputs observed_forward shapley_interactions shapley_values tensor_inputs"
    ),
    "captum_attn.metrics": (
        "AOPC Comprehensiveness Deletion Evaluation Insertion LogOdds MaskedModel Sufficiency TokenAUPRC TokenF1 "
        "TokenIOU evaluate"
    ),
    "lightning_callbacks": "AttributionModule AttributionWriter ExplanationMonitor read_attributions",
    "shap_attn": "AttentionExplainer AttentionText explanation_from_frame plots pool relabel",
}
"""What packages showed before (commit 0c9703c), in ``__all__``."""

OLD = {
    ("captum_attn.comparison.agreement", "captum_attn.functional.means"): "Mean mean_over_inputs",
    ("captum_attn.comparison.agreement", "captum_attn.functional.rankings"): (
        "Agreement METRICS>RANKING_METRICS agreement check_top_k kendall_tau top_count top_k_overlap"
    ),
    ("captum_attn.comparison.figures", "captum_attn.comparison.comparison_figure"): "clustered comparison_figure",
    ("captum_attn.comparison.inputs", "captum_attn.comparison.compared_inputs"): (
        "Collected ComparedInput Picture described"
    ),
    ("captum_attn.comparison.results", "captum_attn.comparison.comparison_result"): "Comparison",
    ("captum_attn.comparison.wording", "captum_attn.formatting"): "listed number percent short",
    ("captum_attn.comparison.words", "captum_attn.comparison.shared_words"): "Words shared words_of",
    ("captum_attn.concepts.activations", "captum_attn.concepts.concept_states"): (
        "ConceptStates Scope StateStore tokens_in_scope"
    ),
    ("captum_attn.concepts.figures", "captum_attn.concepts.concept_figures"): (
        "concepts_by_layers concepts_over_image concepts_under_text scores_of_draws"
    ),
    ("captum_attn.concepts.reading", "captum_attn.bench.reading"): "OnError Reader UnreadableError",
    ("captum_attn.concepts.results", "captum_attn.concepts"): "agreement",
    ("captum_attn.concepts.results", "captum_attn.concepts.concept_scores"): "ConceptScores SetScores",
    ("captum_attn.concepts.sensitivity_maps", "captum_attn.functional.tcav"): "token_sensitivity",
    ("captum_attn.concepts.significance", "captum_attn.functional.significance"): (
        "SIGNIFICANT direction_p_value examples_p_values holm t_test_p_values"
    ),
    ("captum_attn.controls.correlation", "captum_attn.functional.significance"): "SIGNIFICANT",
    ("captum_attn.controls.divergence", "captum_attn.functional.divergence"): "jensen_shannon total_variation",
    ("captum_attn.controls.figures", "captum_attn.controls.control_figures"): (
        "boxes_by_layer layers_by_heads two_attentions"
    ),
    ("captum_attn.controls.permuted", "captum_attn.functional.attention_rows"): "permuted>permuted_rows",
    ("captum_attn.controls.reading", "captum_attn.controls.observed_examples"): (
        "LayerAttention Reader>ObservedExamples Reading>ObservedBatch chosen_heads open_keys random_entries"
    ),
    ("captum_attn.controls.results", "captum_attn.controls.control_result"): "ControlResult",
    ("captum_attn.controls.search", "captum_attn.controls.search"): "Settings>SearchSettings",
    ("captum_attn.controls.uniform", "captum_attn.functional.attention_rows"): "uniform>uniform_rows",
    ("captum_attn.core", "captum_attn.functional.games"): "GAMES coalition_values shapley_interactions shapley_values",
    ("captum_attn.core.barrier_flow", "captum_attn.functional.flows"): "NEGLIGIBLE barrier_flow",
    ("captum_attn.core.estimators", "captum_attn.functional.estimators"): (
        "CharacteristicFunction ShapleyEstimate evaluate>worths kernel_shapley permutation_shapley"
    ),
    ("captum_attn.core.games", "captum_attn.functional.games"): (
        "ADDITIVE_GAMES GAMES Game check_game_inputs coalition_values pair_weights row_weights shapley_interactions "
        "shapley_values singleton_worth"
    ),
    ("captum_attn.core.norms", "captum_attn.core.observers.norms"): (
        "ContributionForm NormObserver contribution_form contribution_norms"
    ),
    ("captum_attn.core.observers", "captum_attn.core.observers"): "GatheringObserver",
    ("captum_attn.core.observers", "captum_attn.core.observers.influence"): (
        "InfluenceObserver PER Per VARIANTS Variant check_variant influence_in"
    ),
    ("captum_attn.core.observers", "captum_attn.core.observers.watched"): "LayerObserver within",
    ("captum_attn.core.outputs", "captum_attn.core.after_attention"): (
        "AttentionOutput>AfterAttention LayerNorm OutputCapture>AfterAttentionCapture"
    ),
    ("captum_attn.core.perturb", "captum_attn.functional.rankings"): "rank_players reversed_ranks top_players",
    ("captum_attn.core.relevance", "captum_attn.core.observers.relevance"): (
        "NormalizedRelevanceObserver RelevanceObserver"
    ),
    ("captum_attn.core.run", "captum_attn.core.forward"): "SeenForward plain_output seen_forward",
    ("captum_attn.core.run", "captum_attn.core.observers"): "ReadoutGradients",
    ("captum_attn.methods.attention_flow", "captum_attn.functional.flows"): "maximum_flows",
    ("captum_attn.metrics.baselines", "captum_attn.bench.baselines"): (
        "CoalitionBaseline GradientBaseline PerturbationBaseline captum_baselines"
    ),
    ("captum_attn.metrics.data", "captum_attn.bench.examples"): (
        "Data Examples Rationales Tensors Texts Words check_label checked_rationales examples_of rationale_fingerprint"
    ),
    ("captum_attn.metrics.evaluation", "captum_attn.bench.examples"): "batches checked_labels",
    ("captum_attn.metrics.faithfulness", "captum_attn.metrics.over_examples"): (
        "AOPC Comprehensiveness Deletion Insertion LogOdds Sufficiency"
    ),
    ("captum_attn.metrics.findings", "captum_attn.metrics.catalogue"): "F1_PERCENTAGE ReportScale",
    ("captum_attn.metrics.functional", "captum_attn.functional.faithfulness"): (
        "PERCENTAGES SCALES Scale aopc area_under_curve check_percentages check_probabilities check_scale log_odds "
        "mean_drop"
    ),
    ("captum_attn.metrics.masked_model", "captum_attn.bench.masked_model"): (
        "INTERVENTIONS Intervention MaskedModel WholeInputs check_masked"
    ),
    ("captum_attn.metrics.means", "captum_attn.metrics.over_examples"): "MeanOverExamples",
    ("captum_attn.metrics.methods", "captum_attn.bench.method_scores"): (
        "Method RANDOM Scorer check_methods patch_scores random_scores token_scores"
    ),
    ("captum_attn.metrics.perturbed_inputs", "captum_attn.bench.perturbed_inputs"): "PerturbedInputs",
    ("captum_attn.metrics.perturbed_inputs", "captum_attn.functional.rankings"): "top_and_rest",
    ("captum_attn.metrics.plausibility", "captum_attn.functional.plausibility"): (
        "check_rationales token_auprc token_f1 token_iou"
    ),
    ("captum_attn.metrics.plausibility", "captum_attn.metrics.over_examples"): "TokenAUPRC TokenF1 TokenIOU",
    ("captum_attn.signal_plots", "captum_attn.visualization"): "plot_sound plot_video",
    ("captum_attn.metrics.rationales", "captum_attn.bench.rationales"): (
        "GivenText Span Spans SpansOfParts chosen_tokens given_text spans_of_rationales warn_of_lost_spans"
    ),
    ("captum_attn.metrics.record", "captum_attn.metrics.record"): "Settings>EvaluationSettings",
    ("lightning_callbacks.agreement", "lightning_callbacks.consensus"): (
        "FailedTogetherError>FailedSomewhereError Result together>all_or_none"
    ),
    ("lightning_callbacks.figures", "lightning_callbacks.history_figures"): (
        "example_over_time patches_over_time tokens_over_time trajectories"
    ),
    ("lightning_callbacks.methods", "lightning_callbacks.method_factories"): (
        "MethodFactory Methods built named_methods tokenizer_of"
    ),
    ("lightning_callbacks.names", "lightning_callbacks.logged_names"): "COSTS check_names check_waiting plain_name",
    ("lightning_callbacks.probe", "lightning_callbacks.probe_set"): (
        "Batches ProbeBatch ProbeSet as_it_is fitted read_probe"
    ),
    ("lightning_callbacks.probing", "lightning_callbacks.history"): "ExplainedExample",
    ("lightning_callbacks.settings", "lightning_callbacks.plain_settings"): "differences plain",
    ("shap_attn.baselines", "shap_attn.shap_baselines"): "Array ExactBaseline PartitionBaseline",
    ("shap_attn.outputs", "shap_attn.explained_outputs"): (
        "OutputNames Outputs PREDICTED is_single names_in_order output_chooser"
    ),
    ("shap_attn.texts", "shap_attn.segments"): "segment_starts word_boundaries",
}
"""What modules defined before (commit 0c9703c) and do not define now: the old module, the one that does, the names."""

GONE = {
    ("captum_attn.core.observers", "index"): "",
    ("captum_attn.core.outputs", "same_place"): "",
    ("captum_attn.metrics.faithfulness", "AreaUnderCurve"): "derive from captum_attn.metrics.OverExamples",
    ("captum_attn.metrics.faithfulness", "FaithfulnessMetric"): "derive from captum_attn.metrics.OverExamples",
    ("captum_attn.metrics.faithfulness", "MeanDrop"): "derive from captum_attn.metrics.OverExamples",
    ("captum_attn.metrics.findings", "AREAS"): "see captum_attn.metrics.CATALOGUE",
    ("captum_attn.metrics.findings", "F1"): "see captum_attn.metrics.CATALOGUE",
    ("captum_attn.metrics.findings", "METRICS"): "see captum_attn.metrics.CATALOGUE",
    ("captum_attn.metrics.findings", "PLAUSIBILITY"): "see captum_attn.metrics.CATALOGUE",
    ("captum_attn.metrics.findings", "SCALED"): "see captum_attn.metrics.CATALOGUE",
    ("captum_attn.metrics.findings", "f1_of_classes"): "",
    ("captum_attn.metrics.findings", "standard_error"): "",
    ("captum_attn.metrics.perturbed_batch", "PerturbedBatch"): "on_scores gets captum_attn.bench.WholeInputs",
    ("captum_attn.metrics.plausibility", "PlausibilityMetric"): "derive from captum_attn.metrics.OverExamples",
    ("lightning_callbacks.figures", "BETTER"): "",
    ("lightning_callbacks.names", "CONCEPT_COLUMNS"): "",
    ("lightning_callbacks.names", "GROUPS"): "",
    ("lightning_callbacks.names", "concept_name"): "",
    ("lightning_callbacks.names", "faithfulness_names"): "",
    ("lightning_callbacks.probing", "Probing"): "see lightning_callbacks.Measurement",
}
"""What is no more, and what there is instead. Beside: the private ``captum_attn._targets``, and in
``lightning_callbacks`` the modules ``concept_probe`` and ``faithfulness_probe``, nothing of which is left."""


@pytest.fixture
def fresh():
    """Modules that moved are found anew, so that they warn."""
    for old in MOVED:
        sys.modules.pop(old, None)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_its_public_names_alone(name):
    package = import_module(name)
    assert {*dir(package)} == {*package.__all__} | ({"__version__"} if name == "captum_attn" else set())
    assert all(hasattr(package, public) for public in package.__all__)


@pytest.mark.parametrize("name", ["captum_attn", "lightning_callbacks", "shap_attn"])
def test_help_says_what_each_public_name_is_for(name):
    package = import_module(name)
    assert [public for public in package.__all__ if f"``{public}``" not in package.__doc__] == []


def test_the_version_is_that_of_the_distribution():
    assert captum_attn.__version__ == version("captum-attn")


@pytest.mark.parametrize("name", FACES)
@pytest.mark.filterwarnings("ignore:captum_attn.core.* moved:FutureWarning")
def test_a_package_has_all_names_that_it_ever_showed(name):
    assert [public for public in FACES[name].split() if not hasattr(import_module(name), public)] == []


def warned_of(action):
    """What an action returns, and the FutureWarnings that it gives."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        result = action()
    return result, [str(one.message) for one in given if one.category is FutureWarning]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("old", "new"), OLD)
def test_an_old_name_leads_to_the_same_thing_and_a_warning_to_its_new_place(old, new):
    module, of_module = warned_of(lambda: import_module(old))
    assert len(of_module) == (old in MOVED)
    for name in OLD[old, new].split():
        was, now = name.split(">") if ">" in name else (name, name)
        imported_there = was in vars(module)
        found, of_name = warned_of(partial(getattr, module, was))
        assert found is getattr(import_module(new), now)
        if old in MOVED:
            warning, *notes = of_module[0].split("; ")
            homes = warning.removeprefix(f"{old} moved: import from ").split(" or ")
            assert was == now or f"{was} is now {now}" in notes
        elif not imported_there:
            (warning,) = of_name
            homes = [warning.removeprefix(f"{old}.{was} moved: import {now} from ")]
        else:
            homes = [old]
        assert any(getattr(import_module(home), now, None) is found for home in homes)


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("ignore:.* moved:FutureWarning")
@pytest.mark.parametrize(("old", "name"), GONE)
def test_what_is_no_more_says_what_there_is_instead(old, name):
    said = f"module '{old}' has no attribute '{name}'" + (f" any more: {GONE[old, name]}" if GONE[old, name] else "")
    with pytest.raises(AttributeError, match=f"^{said}$"):
        getattr(import_module(old), name)


@pytest.mark.usefixtures("fresh")
def test_what_is_no_more_is_also_said_where_python_hides_the_error():
    with (
        pytest.warns(FutureWarning, match=r"MeanDrop is no more: derive from captum_attn\.metrics\.OverExamples"),
        pytest.raises(ImportError, match="cannot import name 'MeanDrop'"),
    ):
        from captum_attn.metrics.faithfulness import MeanDrop  # noqa: F401


def test_every_module_that_moved_is_looked_at():
    assert {*MOVED} == {old for old, _ in [*OLD, *GONE] if old in MOVED}


@pytest.mark.usefixtures("fresh")
def test_a_module_that_moved_shows_its_names_and_exports_them():
    names = {}
    with pytest.warns(FutureWarning, match=r"captum_attn\.core\.games moved"):
        exec("from captum_attn.core.games import *", names)
    wanted = {*OLD["captum_attn.core.games", "captum_attn.functional.games"].split()}
    assert wanted <= {*names} & {*dir(sys.modules["captum_attn.core.games"])}


@pytest.mark.usefixtures("fresh")
def test_results_that_were_pickled_under_old_paths_are_read():
    nothing = torch.zeros(0, 0)
    confounds = Confounds(torch.zeros(0), None, torch.zeros(0).bool(), torch.zeros(0))
    one = SetScores([], [], [], EffectPValues(nothing, nothing, nothing, 99), [], confounds)
    scores = ConceptScores([one], torch.tensor([[1]]), ["good"])
    settings = SearchSettings([0], None, 0.05, 10, 0.1, 3)
    found = Counterfactuals(pd.DataFrame({"example": [0]}), settings, 0.3, "data", {})
    pickled = pickle.dumps((scores, found), protocol=2)  # has paths as plain lines
    for new, old in (
        (b"captum_attn.concepts.concept_scores\n", b"captum_attn.concepts.results\n"),
        (b"captum_attn.controls.search\nSearchSettings\n", b"captum_attn.controls.search\nSettings\n"),
    ):
        assert new in pickled
        pickled = pickled.replace(new, old)
    (read_scores, read_found), said = warned_of(lambda: pickle.loads(pickled))
    assert {message.split(":")[0] for message in said} == {
        "captum_attn.concepts.results moved",
        "captum_attn.controls.search.Settings moved",
    }
    assert type(read_scores) is ConceptScores
    assert type(read_scores.sets[0]) is SetScores
    assert read_scores.target_names == ["good"]
    assert type(read_found.settings) is SearchSettings
    assert read_found.settings == settings


def said_by(program):
    """What Python prints, and says, in a process of its own, of this checkout."""
    here = {**os.environ, "PYTHONPATH": str(Path(captum_attn.__file__).parents[1]), "PAGER": "cat"}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, env=here)
    return done.stdout, done.stderr


def test_the_warning_names_the_line_that_imports_it(tmp_path):
    old = {
        "captum_attn.core.games.row_weights": "captum_attn.core.games",
        "shap_attn.baselines.PartitionBaseline": "shap_attn.baselines",
        "captum_attn.core.GAMES": "captum_attn.core.GAMES",
        "captum_attn.controls.search.Settings": "captum_attn.controls.search.Settings",
    }
    script = tmp_path / "old.py"
    lines = [f"from {module} import {name}" for module, _, name in (path.rpartition(".") for path in old)]
    script.write_text("\n".join(["import torch", *lines]))
    _, said = said_by(script)
    for line, moved in enumerate(old.values(), 2):
        assert f"{script}:{line}: FutureWarning: {moved} moved" in said


def test_without_an_extra_what_needs_it_names_it_and_help_shows_the_rest(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(
        """import importlib, sys

for library, package, name in (
    ("torchmetrics", "captum_attn", "compare"),
    ("shap", "shap_attn", "AttentionExplainer"),
    ("pyarrow", "lightning_callbacks", "AttributionWriter"),
    ("sklearn", "captum_attn", "TTCAV"),
):
    sys.modules[library] = None
    try:
        getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        print(error)
help("captum_attn")
"""
    )
    shown, _ = said_by(script)
    extras = {"torchmetrics": "metrics", "shap": "shap", "pyarrow": "lightning", "sklearn": "concepts"}
    for library, extra in extras.items():
        assert re.search(rf"^{library}\S* is not installed: pip install 'captum-attn\[{extra}\]'$", shown, re.M), shown
    assert "class AttnLRP" in shown
    assert "class TTCAV" not in shown


def test_a_name_that_never_was_is_not_found():
    import captum_attn.core

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = captum_attn.core.nothing
