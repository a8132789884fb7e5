"""Tables, notes, figures and heat maps of T-TCAV."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.concept import Concept
from cut_images import CUT, assert_over_its_pixels, read_by_each_token
from families import FAMILIES
from helpers.small_models import load_text_model
from scipy import stats

from captum_attn import TTCAV, ShapleyGradAttention
from captum_attn.concepts import find_layers
from captum_attn.concepts.cavs import CAVs
from captum_attn.concepts.concept_scores import ConceptScores
from captum_attn.concepts.sensitivity_maps import SensitivityMaps
from captum_attn.concepts.token_states import draw_negatives
from captum_attn.core import mapping_inputs, observed_forward, tensor_inputs
from captum_attn.core.perturb import seeded
from captum_attn.core.propagation import ATTNLRP

QUIET = {"show_progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:concept .* its vectors separate held-out")
PRAISE = ["a gem", "superb acting", "a delight", "warm , funny and wise", "gripping", "so charming"]
BLAME = ["a mess", "awful acting", "a bore", "cold , stale and dull", "tedious", "so boring"]
TEXTS = ["a gripping , funny film", "charming"]


def images(count, seed, shift=0.0):
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) + shift


SETS = {"bright": images(8, 1, 0.5), "dark $": images(8, 2, -0.5), "plain": images(8, 3)}
WORDS = {"praise": PRAISE, "blame": BLAME}


@pytest.fixture(scope="module")
def vit():
    return FAMILIES["vit"].build()


@pytest.fixture(scope="module")
def of_images(vit):
    return TTCAV(vit, n_cavs=5, tokens="players").interpret(images(6, 9), SETS, 0, **QUIET)


@pytest.fixture(scope="module")
def text_ttcav():
    model, tokenizer = load_text_model()
    return TTCAV(model, n_cavs=5, processor=tokenizer, tokens="players")


@pytest.fixture(scope="module")
def of_texts(text_ttcav):
    return text_ttcav.interpret(TEXTS, WORDS, 1, **QUIET)


def test_the_table_says_what_the_tensors_say(of_images):
    table = of_images.table()
    assert len(table) == 9
    row = table[(table.concept == "plain") & (table.layer == 1)].iloc[0]
    tensors = of_images["0-1-2"]["vit.layers.1"]
    scores = tensors["sign_count_per_cav"][2]
    assert row.score == pytest.approx(float(scores.mean()))
    assert row.score_std == pytest.approx(float(scores.std()))
    assert row.effect == pytest.approx(float(tensors["effect"][2]))
    cosines = tensors["cavs"][2] @ tensors["cavs"][2].mT
    assert row.cosine == pytest.approx(float((cosines.sum() - 5) / 20), abs=1e-5)
    assert row.p == max(row.p_examples, row.p_direction)
    assert (row.module, row.examples, row.inputs) == ("vit.layers.1", 8, 6)
    if scores.std() > 0:
        assert row.t_test == pytest.approx(stats.ttest_1samp(scores.double().numpy(), 0.5).pvalue)


def by_holm(p_values):
    """Holm's correction, one by one."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def test_each_concept_has_one_p_value_and_its_layers_have_theirs_after_it(of_images):
    table, concepts = of_images.table(), of_images.concepts()
    assert concepts.concept.tolist() == list(SETS)
    of_concept = {name: rows[rows.p.notna()] for name, rows in table.groupby("concept", sort=False)}
    assert {len(rows) for rows in of_concept.values()} == {2}  # patches of the last layer have no gradient
    combined = [
        0.5 - math.atan(sum(math.tan((0.5 - min(p, 0.999)) * math.pi) for p in rows.p) / len(rows)) / math.pi
        for rows in of_concept.values()
    ]
    assert concepts.p.tolist() == pytest.approx(combined)
    assert concepts.p_holm.tolist() == pytest.approx(by_holm(combined))
    for row, rows in zip(concepts.itertuples(), of_concept.values(), strict=True):
        assert rows.p_holm.tolist() == pytest.approx([max(p, row.p_holm) for p in by_holm(rows.p.tolist())])
        surest = rows.loc[rows.p.idxmin()]
        assert (row.layer, row.module, row.effect) == (surest.layer, surest.module, surest.effect)
        assert row.layers == f"{(rows.p_holm < 0.05).sum()} of 2"
        assert row.significant == (row.p_holm < 0.05)
    assert (table.significant == (table.p_holm < 0.05)).all()


def test_of_two_concepts_one_counts_as_a_test(of_texts, vit):
    concepts = of_texts.concepts()
    for column in ("p", "layer", "significant", "note"):
        assert concepts[column].nunique() == 1
    assert concepts.effect[0] == pytest.approx(-concepts.effect[1])
    assert concepts.p_holm.tolist() == concepts.p.tolist()
    of_set = [Concept(id, name, [part]) for id, (name, part) in enumerate(SETS.items())]
    both = TTCAV(vit, n_cavs=2).interpret(images(6, 9), [of_set, of_set[1:]], 0, **QUIET).concepts()
    corrected = by_holm(both.p[:4].tolist())
    assert both.p_holm.tolist() == pytest.approx([*corrected, corrected[-1]])


def test_nothing_is_planned_where_nothing_is_defined(vit):
    scores = TTCAV(vit, 2, n_cavs=2, tokens="players").interpret(images(6, 9), SETS, 0, **QUIET)
    assert scores.concepts().note.str.contains("no gradient on these tokens").all()
    assert not scores.concepts().note.str.contains("examples would").any()
    scores.plot_power().canvas.draw()


def test_layers_without_gradients_are_undefined_and_noted(of_images):
    last = of_images.table().query("layer == 2")
    assert last[["score", "p", "p_holm", "t_test"]].isna().all().all()
    assert last.note.str.contains("no gradient on these tokens").all()
    assert not last.significant.any()


def test_vectors_that_separate_nothing_are_noted(vit):
    sets = {name: images(20, seed) for seed, name in enumerate(["one", "another", "third"])}
    with pytest.warns(
        UserWarning, match=r"concept 'third' \(set 0-1-2\): in the layers \[0\], its vectors separate held-out"
    ):
        notes = TTCAV(vit, 0, n_cavs=10, tokens="players").interpret(images(4, 9), sets, 0, **QUIET).table().note
    assert notes.str.contains("separate no better than chance").all()
    sets = {"bright": images(20, 1, 1.0), "dark": images(20, 2, -1.0)}
    notes = TTCAV(vit, 0, n_cavs=10, tokens="players").interpret(images(4, 9), sets, 0, **QUIET).table().note
    assert not notes.str.contains("no better than chance").any()


def test_constant_scores_have_no_t_test(vit):
    sets = {"bright": images(20, 1, 3.0), "dark": images(20, 2, -3.0)}
    table = TTCAV(vit, 1, n_cavs=10, tokens="players").interpret(images(1, 9), sets, 0, **QUIET).table()
    constant = table[table.score_std == 0]
    assert len(constant)
    assert constant.t_test.isna().all()


def test_accuracy_is_on_examples_that_took_no_part(vit):
    """Vectors of few examples in many dimensions fit their own tokens perfectly, and tell nothing of others."""
    sets = {"one": images(6, 1), "another": images(6, 2)}
    table = TTCAV(vit, 0, n_cavs=5, tokens="readout", estimator="logistic").interpret(images(3, 9), sets, 0, **QUIET)
    assert table.table().accuracy.max() < 0.95


def test_one_vector_has_no_spread(vit):
    sets = {"bright": images(8, 1, 0.5), "dark": images(8, 2, -0.5)}
    row = TTCAV(vit, 0, n_cavs=1).interpret(images(6, 9), sets, 0, **QUIET).table().iloc[0]
    assert all(math.isnan(row[column]) for column in ("score_std", "effect_std", "cosine", "t_test"))
    assert not math.isnan(row.p)


def test_captums_form_is_a_mapping_of_mappings(of_images):
    assert isinstance(of_images, dict)
    assert list(of_images) == ["0-1-2"]
    scores = of_images["0-1-2"]["vit.layers.0"]
    assert scores["sign_count"].shape == scores["magnitude"].shape == (3,)
    assert repr(of_images) == "ConceptScores(0-1-2: ['bright', 'dark $', 'plain'] in 3 layers; 6 inputs)"
    assert set(of_images.seconds) == {"states", "gradients", "vectors"}
    with pytest.raises(KeyError, match="there is no set '7': expected one of '0-1-2'"):
        of_images.of_set("7")


def test_the_score_map_has_concepts_layers_and_marks(of_texts):
    table = of_texts.table()
    figure = of_texts.plot()
    (axes,) = figure.axes
    concepts = of_texts.concepts()
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{row.concept}, p = {row.p_holm:.3f}".replace("0.", ".") for row in concepts.itertuples()
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "3"]
    written = [text.get_text() for text in axes.texts]
    assert len(written) == 8
    for text, row in zip(
        written, table.sort_values(["concept", "layer"], ascending=[False, True]).itertuples(), strict=True
    ):
        if math.isnan(row.score):
            assert text == "none"
        else:
            mark = "" if not row.significant else " ▲" if row.effect > 0 else " ▼"
            assert text == f"{row.score:.2f}{mark}"
    assert sum("▲" in text or "▼" in text for text in written) == table.significant.sum()
    red, _, blue, _ = np.moveaxis(axes.images[0].get_array(), -1, 0)
    effects = table.pivot(index="concept", columns="layer", values="effect").loc[concepts.concept].to_numpy()
    assert (np.sign(red - blue) == np.sign(effects)).all()


def test_the_stability_figure_has_a_dot_for_each_vector(of_images):
    figure = of_images.plot_stability()
    panels = [axes for axes in figure.axes if axes.collections]
    assert [axes.get_title() for axes in panels] == ["layer 0", "layer 1", "layer 2"]
    drawn = panels[1].collections[2].get_offsets()[:, 0]
    expected = of_images["0-1-2"]["vit.layers.1"]["sign_count_per_cav"][2]
    assert sorted(drawn.tolist()) == pytest.approx(sorted(expected.tolist()))
    cosine = of_images.table().query("concept == 'plain' and layer == 1").cosine.iloc[0]
    assert panels[1].texts[2].get_text().startswith(f"cos {cosine:.2f}, acc ")


def shift_along(ttcav, concepts, vectors, place):
    """How far the first concept's tokens lie from the second one's along a vector of each."""
    layers = find_layers(ttcav.model, mapping_inputs(ttcav.model, {"pixel_values": images(1, 9)}), None)
    states = ttcav.read_states(ttcav.read_concepts([concepts]), layers)
    first, second = (states[k].hidden[place].mean(0) for k in (0, 1))
    return torch.stack([vectors[0] @ (first - second), vectors[1] @ (second - first)])


def test_maps_add_up_to_the_sensitivities_that_were_counted(vit):
    concepts = [Concept(k, name, images(8, k, shift)) for k, (name, shift) in enumerate({"a": 0.5, "b": -0.5}.items())]
    ttcav = TTCAV(vit, n_cavs=1, batch_size=4, tokens="players")
    inputs = images(6, 9)
    scores = ttcav.interpret(inputs, [concepts], 0, **QUIET)
    maps = ttcav.sensitivity_maps(inputs, concepts, 0, **QUIET)
    assert maps.values.shape == (6, 3, 2, 10)
    assert not maps.values[..., 0].any()  # the class token is no patch
    torch.testing.assert_close(maps.patches.flatten(-2), maps.values[..., 1:])
    for place, layer in enumerate(maps.layers[:2]):
        distances = shift_along(ttcav, concepts, scores["0-1"][layer]["cavs"][:, 0], place)
        total = maps.values[:, place].sum(-1) / distances
        torch.testing.assert_close(total.mean(0), scores["0-1"][layer]["magnitude"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close((total > 0).float().mean(0), scores["0-1"][layer]["sign_count"])


def test_the_spread_of_effects_is_over_the_draws(vit):
    scores = TTCAV(vit, 0, n_cavs=4).interpret(images(6, 9), SETS, 0, **QUIET)
    layer = scores.of_set().scores[0]
    effects = layer.effects.example_effects
    draws = draw_negatives(torch.arange(3).repeat_interleave(8), 4, seeded(0, 0))
    expected = [
        effects[draws.positive[cav] > 0].mean() - (effects * draws.negative[cav]).sum() / draws.negative[cav].sum()
        for cav in range(12)
    ]
    torch.testing.assert_close(layer.effect_of_draws.flatten(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    row = scores.table().iloc[1]
    assert row.effect_std == pytest.approx(float(torch.stack(expected)[4:8].std()), rel=1e-3)


def states_of(vit, examples):
    """The states of all patches after the first layer."""
    with (
        torch.no_grad(),
        observed_forward(
            vit, mapping_inputs(vit, {"pixel_values": examples}), gradients=False, modules={"vit.layers.0"}
        ) as run,
    ):
        return run.states[0].hidden[:, 1:].flatten(0, 1)


def test_a_maps_vector_is_the_unit_mean_of_its_vectors(vit):
    of_one = {}

    class Fixed:
        def __call__(self, states, draws):
            vectors = torch.nn.functional.normalize(
                torch.arange(1.0, 1 + 32 * len(draws.positive)).view(-1, 32).sin(), dim=1
            )
            of_one["mean"] = torch.nn.functional.normalize(vectors.view(3, -1, 32).mean(1), dim=1)
            return CAVs(vectors, torch.zeros(len(vectors)))

    maps = TTCAV(vit, 0, n_cavs=3, estimator=Fixed(), weighting="uniform").sensitivity_maps(
        images(2, 9), SETS, 0, **QUIET
    )
    inputs = mapping_inputs(vit, {"pixel_values": images(2, 9)})
    with observed_forward(vit, inputs, modules={"vit.layers.0"}) as run:
        (gradient,) = run.readout_gradients(run.output[:, 0], run.states).gradients
    means = torch.stack([states_of(vit, one).mean(0) for one in SETS.values()])
    shifts = means - (means.sum(0) - means) / 2
    steps = of_one["mean"] * (of_one["mean"] * shifts).sum(-1, keepdim=True).abs()
    expected = (gradient @ steps.mT).mT
    torch.testing.assert_close(maps.values[:, 0, :, 1:], expected[..., 1:], rtol=1e-4, atol=1e-7)


def test_maps_are_of_tokens_whatever_the_scores_are_of(vit):
    of_readout, of_players = (
        TTCAV(vit, n_cavs=3, tokens=tokens).sensitivity_maps(images(2, 9), SETS, 0, **QUIET)
        for tokens in ("readout", "players")
    )
    assert torch.equal(of_readout.values, of_players.values)
    everything = TTCAV(vit, n_cavs=3, tokens="all").sensitivity_maps(images(2, 9), SETS, 0, **QUIET)
    assert everything.values[..., 0].any()


def test_rescaling_changes_no_sign_and_no_score(text_ttcav):
    plain, rescaled = (text_ttcav.sensitivity_maps(TEXTS, WORDS, 1, rescaled=r, **QUIET) for r in (False, True))
    assert torch.equal(plain.values.sign(), rescaled.values.sign())
    ratio = rescaled.values[0, 0, 0] / plain.values[0, 0, 0]
    ratio = ratio[ratio.isfinite()]
    assert ratio.max() == pytest.approx(float(ratio.min()), rel=1e-4)


def labels(maps, concepts, layer):
    """As figures name concepts, with p-values after Holm's correction for the layers that have a gradient."""
    found = []
    for name in concepts:
        own = maps.p_values[:, list(maps.concepts).index(name)]
        corrected = by_holm([p for p in own.tolist() if not math.isnan(p)])[layer]
        found.append(f"{name}\np = {corrected:.3f}".replace("0.", "."))
    return found


def test_maps_of_texts_have_their_tokens(text_ttcav):
    maps = text_ttcav.sensitivity_maps(TEXTS, WORDS, 1, **QUIET)
    assert maps.tokens[1] == ["[CLS]", "charming", "[SEP]"]
    assert maps.real.sum(1).tolist() == [7, 3]
    assert not maps.values[1, ..., 3:].any()
    assert not maps.values[..., 0].any()
    figure = maps.plot(0)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == maps.tokens[0]
    drawn = axes.images[0].get_array()
    surest = int(maps.p_values[:3].amin(1).argmin())  # layer 3 has no gradient
    assert [label.get_text() for label in axes.get_yticklabels()] == labels(maps, WORDS, surest)
    torch.testing.assert_close(torch.tensor(drawn), maps.values[0, surest, :, :7].double())
    assert f"layer.{surest}" in figure.get_suptitle()
    of_blame = int(maps.p_values[:3, 1].argmin())
    assert f"layer.{of_blame}" in maps.plot(0, "blame").get_suptitle()


def test_maps_of_images_have_a_panel_for_each_concept(vit):
    maps = TTCAV(vit, n_cavs=5).sensitivity_maps(images(2, 9), SETS, 0, **QUIET)
    figure = maps.plot(1, layer="vit.layers.0")
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["input", *labels(maps, SETS, 0)]
    drawn = torch.tensor(panels[2].images[-1].get_array())
    torch.testing.assert_close(drawn, maps.patches[1, 0, 1].double())
    assert len({axes.images[-1].get_clim() for axes in panels[1:]}) == 1
    single = maps.plot(0, concepts="plain", layer=0)
    assert [axes.get_title() for axes in single.axes if axes.images] == ["input", *labels(maps, ["plain"], 0)]


def test_each_concept_is_shown_where_its_effect_is_surest(vit):
    maps = TTCAV(vit, n_cavs=5).sensitivity_maps(images(2, 9), SETS, 0, **QUIET)
    maps.p_values[:2] = torch.tensor([[0.2, 0.01, 0.3], [0.1, 0.04, 0.3]])
    figure = maps.plot(1)
    shown = {"bright": (1, ".200"), "dark $": (0, ".020"), "plain": (0, ".600")}
    panels = [axes for axes in figure.axes if axes.images][1:]
    for k, (axes, (name, (layer, p))) in enumerate(zip(panels, shown.items(), strict=True)):
        assert axes.get_title() == f"{name}\nvit.layers.{layer}, p = {p}"
        torch.testing.assert_close(torch.tensor(axes.images[-1].get_array()), maps.patches[1, layer, k].double())
    assert figure.get_suptitle() == "LABEL_0"
    assert maps.plot(1, ["dark $", "plain"]).get_suptitle() == "LABEL_0, vit.layers.0"


@pytest.mark.parametrize("name", ["by quadrants, cut out", "padded around"])
def test_maps_lie_over_the_pixels_that_their_patches_read(name):
    model, pixels = CUT[name]
    read = read_by_each_token(model.eval(), pixels[1])
    grid = ShapleyGradAttention(model).attribute_tokens(pixels, target=1).grid
    values, targets = torch.randn(2, 1, 2, len(read)), torch.ones(2, 1, dtype=torch.long)
    real = torch.ones(2, len(read), dtype=torch.bool)
    maps = SensitivityMaps(values, ["one", "other"], ["layer"], targets, ["a", "b"], real, grid, pixels)
    for place, axes in enumerate(maps.plot(1).axes[1:3]):
        assert_over_its_pixels(axes.images[-1], values[1, 0, place], read)


def test_layers_and_targets_are_named_in_figures(of_texts, text_ttcav, vit):
    assert of_texts.plot().get_suptitle() == "positive, 2 inputs"
    maps = text_ttcav.sensitivity_maps(["good " * 70, "good"], WORDS, 1, **QUIET)
    figure = maps.plot(0)
    surest = int(maps.p_values[:3].amin(1).argmin())
    assert figure.get_suptitle() == f"positive, bert.encoder.layer.{surest}"
    lines = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes[:-1]]
    assert [len(line) for line in lines] == [30, 30, 12]
    assert [token for line in lines for token in line] == maps.tokens[0]
    assert "no gradient" not in maps.plot(1).get_suptitle()  # one word: nothing else to see
    assert "no gradient on these tokens" in maps.plot(1, layer=3).get_suptitle().replace("\n", " ")
    names = ["vit.layers.1", "vit.layers.1.mlp"]
    scores = TTCAV(vit, names, n_cavs=2).interpret(images(2, 9), SETS, 0, **QUIET)
    assert [label.get_text() for label in scores.plot().axes[0].get_xticklabels()] == names


def test_figures_can_be_saved(of_images, vit, of_texts, text_ttcav, tmp_path):
    of_images.plot().savefig(tmp_path / "scores.png")
    TTCAV(vit).sensitivity_maps(images(1, 9), SETS, 0, **QUIET).plot().savefig(tmp_path / "images.png")
    text_ttcav.sensitivity_maps(TEXTS, WORDS, 1, **QUIET).plot(1).savefig(tmp_path / "texts.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"example": 2}, IndexError, "example 2 is out of range: there are 2 inputs"),
        ({"concepts": "love"}, ValueError, r"unknown concepts \['love'\]: expected some of 'praise', 'blame'"),
        ({"layer": 9}, ValueError, "unknown layer 9: expected one of 'bert.encoder.layer.0'"),
        ({"layer": "nine"}, ValueError, "unknown layer 'nine'"),
    ],
)
def test_figures_of_what_is_not_there_are_refused(text_ttcav, call, error, message):
    maps = text_ttcav.sensitivity_maps(TEXTS, WORDS, 1, **QUIET)
    with pytest.raises(error, match=message):
        maps.plot(**call)
    with pytest.raises(ValueError, match=r"the inputs were no images: use \.values"):
        _ = maps.patches
    with pytest.raises(ValueError, match=r"there are no masks"):
        maps.on_object()
    with pytest.raises(ValueError, match="masks are of the pixels of images, but the inputs are no images"):
        text_ttcav.sensitivity_maps(TEXTS, WORDS, 1, masks=torch.ones(2, 3, 3, dtype=torch.bool), **QUIET)


def test_the_share_on_an_object(vit):
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, :4, :4] = True  # one of nine patches
    masks[1, :, :6] = True  # three of them, and half of three
    maps = TTCAV(vit, 0, n_cavs=3).sensitivity_maps(images(2, 9), SETS, 0, masks=masks, **QUIET)
    found = maps.on_object().set_index(["input", "concept"])
    for number, area in ((0, 1 / 9), (1, 0.5)):
        for k, concept in enumerate(SETS):
            patches = maps.patches[number, 0, k].clamp(min=0)
            columns = torch.tensor([1, 0.5, 0])
            inside = patches[0, 0] if number == 0 else (patches * columns).sum()
            row = found.loc[(number, concept)]
            assert row["share"] == pytest.approx(float(inside / patches.sum()), abs=1e-6)
            assert row["area"] == pytest.approx(area)
            assert row["ratio"] == pytest.approx(row["share"] / area)
            best = divmod(int(patches.argmax()), 3)
            assert row["top"] == (best == (0, 0) if number == 0 else best[1] < 2)
    (outline,) = maps.plot(1).axes[0].collections  # between the sixth column and the seventh
    assert {x for path in outline.get_paths() for x in path.vertices[:, 0].tolist()} == {6.0}
    blind = replace(maps, values=maps.values.clamp(max=0))
    assert blind.on_object()[["share", "top"]].isna().all().all()
    for wrong in (masks[:1], masks[:, 1:], masks.float()):
        with pytest.raises(ValueError, match=r"masks must be bool \(2, 12, 12\), of the images as"):
            TTCAV(vit, 0, n_cavs=3).sensitivity_maps(images(2, 9), SETS, 0, masks=wrong, **QUIET)


def test_scores_without_sets_are_empty():
    assert ConceptScores([], torch.zeros(0, 1), [], {}) == {}


def test_maps_of_a_float64_model(vit):
    plain, double = (TTCAV(model, 0, n_cavs=3) for model in (vit, copy.deepcopy(vit).double()))
    sets = {name: examples.double() for name, examples in SETS.items()}
    found = double.sensitivity_maps(images(2, 9).double(), sets, 0, **QUIET)
    assert found.values.dtype == torch.float64
    expected = plain.sensitivity_maps(images(2, 9), SETS, 0, **QUIET)
    torch.testing.assert_close(found.values.float(), expected.values, rtol=1e-3, atol=1e-6)


def test_effects_under_rules_are_by_gradients_under_rules(vit):
    inputs = images(4, 9)
    found = TTCAV(vit, 0, n_cavs=3, propagation="attnlrp").interpret(inputs, SETS, 0, **QUIET)
    with observed_forward(vit, tensor_inputs(vit, inputs), propagation=ATTNLRP, modules={"vit.layers.0"}) as run:
        (states,) = (one for one in run.states if one.module == "vit.layers.0")
        (gradient,) = torch.autograd.grad(run.output[:, 0].sum(), states.hidden)
    with torch.no_grad():
        read = {name: vit(e, output_hidden_states=True).hidden_states[1][:, 0] for name, e in SETS.items()}
    for k, name in enumerate(SETS):
        others = torch.cat([hidden for other, hidden in read.items() if other != name])
        expected = gradient[:, 0].mean(0) @ (read[name].mean(0) - others.mean(0))
        assert float(found.of_set().p_values.effects[0, k]) == pytest.approx(float(expected), rel=1e-3)
    plain = TTCAV(vit, 0, n_cavs=3).interpret(inputs, SETS, 0, **QUIET)
    assert not torch.allclose(plain.of_set().p_values.effects, found.of_set().p_values.effects, rtol=0.01)
