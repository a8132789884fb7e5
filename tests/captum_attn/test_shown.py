"""Every result shows itself: as a page that needs nothing else, in a notebook, as a figure, as a table."""

from __future__ import annotations

import copy
from functools import cache
from html import escape

import pytest
import torch
from fine_tuning import FineTuned, Texts, monitored, trainer_of
from helpers.small_models import load_image_model, load_text_model
from pages import Tags, assert_self_contained, views_of
from pages import shown as in_browser
from torch.utils.data import DataLoader

from captum_attn import TTCAV, AttnLRP, ShapleyGradAttention, compare, inspect
from captum_attn.controls import (
    attention_correlation,
    counterfactual_attention,
    permuted_attention,
    seed_variance,
    uniform_attention,
)
from captum_attn.generation.explained_response import ExplainedResponse
from captum_attn.metrics import evaluate
from captum_attn.pages import Shown
from captum_attn.visualization import Exploration
from lightning_callbacks import ExplanationMonitor

HOSTILE = "<script>alert(1)</script>"
WITHOUT_SLASH = "<script>alert(1)"  # of names that are parts of a path
TEXTS = ["a gripping , funny film", "not good at all", "the cast is a delight"]
GOOD, BAD = "superb funny warm fine charming", "awful stale dull boring tedious"
QUIET = {"show_progress": False}


@cache
def text_model():
    model, tokenizer = load_text_model()
    model.config.id2label = {0: HOSTILE, 1: "positive"}
    return model, tokenizer


def evaluation(**options):
    model, tokenizer = text_model()
    methods = {HOSTILE: ShapleyGradAttention(model, tokenizer=tokenizer)}
    return evaluate(model, TEXTS, methods, tokenizer=tokenizer, **options, **QUIET)


def comparison():
    model, tokenizer = text_model()
    methods = {HOSTILE: ShapleyGradAttention(model, tokenizer=tokenizer), "b": AttnLRP(model, tokenizer=tokenizer)}
    return compare(model, TEXTS, methods, tokenizer=tokenizer, **QUIET)


def ttcav():
    model, tokenizer = text_model()
    return TTCAV(model, n_cavs=3, processor=tokenizer, tokens="players")


def concept_scores():
    return ttcav().interpret(TEXTS, {HOSTILE: GOOD.split(), "blame": BAD.split()}, 0, **QUIET)


def maps_of_texts():
    maps = ttcav().sensitivity_maps(TEXTS, {HOSTILE: GOOD.split(), "blame": BAD.split()}, 0, **QUIET)
    maps.tokens[0][1] = HOSTILE
    return maps


def maps_of_images(masked=True):
    model, images = load_image_model(), torch.rand(2, 1, 8, 8)
    sets = {HOSTILE: torch.rand(6, 1, 8, 8), "dark": torch.rand(6, 1, 8, 8) / 2}
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    return TTCAV(model, n_cavs=3).sensitivity_maps(images, sets, 0, masks=masks if masked else None, **QUIET)


def other_model():
    model, _ = text_model()
    other = copy.deepcopy(model)
    other.bert.encoder.layer[1].attention.self.query.weight.data *= 2
    return other


def controlled(control, **options):
    model, tokenizer = text_model()
    return control(model, TEXTS, tokenizer=tokenizer, **options, **QUIET)


def inspection(target=1):
    model, tokenizer = text_model()
    hostile = copy.copy(tokenizer)
    hostile.convert_ids_to_tokens = lambda ids: [HOSTILE] * len(ids)
    return inspect(model, TEXTS[:2], target, tokenizer=hostile)


def monitor():
    concepts = dict(zip([WITHOUT_SLASH, "b", "c"], monitored()["concepts"].values(), strict=True))
    found = ExplanationMonitor(**monitored(concepts=concepts))
    trainer_of([found]).validate(FineTuned().eval(), DataLoader(Texts(11, seed=1), 4), verbose=False)
    return found


def attributions():
    model, tokenizer = text_model()
    return ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(TEXTS, 0)


RESULTS = {
    "attributions": (attributions, HOSTILE),
    "evaluation": (evaluation, HOSTILE),
    "evaluation of F1": (lambda: evaluation(metrics=["f1_macro"], labels=[0, 1, 0]), HOSTILE),
    "comparison": (comparison, HOSTILE),
    "concept scores": (concept_scores, HOSTILE),
    "maps of texts": (maps_of_texts, HOSTILE),
    "maps of images": (maps_of_images, HOSTILE),
    "maps of images without masks": (lambda: maps_of_images(masked=False), HOSTILE),
    "uniform attention": (lambda: controlled(uniform_attention, per="head", labels=[0, 1, 0]), ""),
    "permuted attention": (lambda: controlled(permuted_attention, permutations=2), ""),
    "correlations": (lambda: controlled(attention_correlation), ""),
    "counterfactual": (lambda: controlled(counterfactual_attention, steps=5), ""),
    "seeds": (lambda: seed_variance([text_model()[0], other_model()], TEXTS, tokenizer=text_model()[1], **QUIET), ""),
    "inspection": (inspection, HOSTILE),
    "inspection that is refused": (lambda: inspection(target=f"no {HOSTILE}"), HOSTILE),
    "monitor": (monitor, WITHOUT_SLASH),
}
"""By name, a result, and a hostile name in it, if it has names."""


pytestmark = pytest.mark.filterwarnings("ignore:concept .*:UserWarning", "ignore:no p-value:UserWarning")


@cache
def built(name):
    build, _ = RESULTS[name]
    return build()


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_itself(name, tmp_path):
    result, hostile = built(name), RESULTS[name][1]
    page = result.page()
    assert_self_contained(page)
    texts = [*Tags(page).texts, *(text for view in views_of(page) for text in strings_of(view))]
    assert any(hostile in text for text in texts)
    assert not hostile or hostile not in page
    assert escape(page) in result._repr_html_()
    assert result._repr_html_().startswith('<iframe sandbox="allow-scripts"')
    written = result.to_html(tmp_path / "new" / "page.html")
    assert written == tmp_path / "new" / "page.html"
    assert written.read_text(encoding="utf-8") == page
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
    assert len(result.frame())


def largest(numbers, k):
    return sorted(numbers, key=lambda number: (-abs(number), number != number))[:k]


@pytest.mark.parametrize("name", ["attributions", "maps of texts", "maps of images"])
def test_the_strongest_tokens_of_each_input_come_first(name):
    result = built(name)
    frame, top = result.frame(), result.top(2)
    by = [column for column in ("input", "concept") if column in top]
    groups = top.groupby(by, sort=False)
    assert [key for key, _ in groups] == [key for key, _ in frame.groupby(by, sort=False)]
    for key, rows in groups:
        own = frame.set_index(by).loc[[key if len(by) > 1 else key[0]]]
        if "layer" in rows:
            (layer,) = rows.layer.unique()
            own = own[own.layer == layer]
        assert rows.value.tolist() == largest(own.value, 2)


@pytest.mark.parametrize("name", ["uniform attention", "permuted attention", "correlations", "counterfactual", "seeds"])
def test_layers_and_heads_with_the_largest_means_come_first(name):
    result = built(name)
    table, top = result.table(), result.top(3)
    (measure,) = top.measure.unique()
    assert measure == table.measure.iloc[0]
    assert top["mean"].tolist() == largest(table[table.measure == measure]["mean"], 3)


def test_faithful_methods_and_sure_concepts_come_first():
    comparison, monitor, scores = built("comparison"), built("monitor"), built("concept scores")
    assert comparison.top(2).equals(comparison.table().nlargest(2, "comprehensiveness"))
    assert monitor.top(2).equals(monitor.scores.concepts().nsmallest(2, "p").reset_index(drop=True))
    assert scores.top(2).p.tolist() == scores.concepts().p.nsmallest(2).tolist()


@pytest.mark.parametrize("name", RESULTS)
def test_every_page_fits_a_telephone(name, tmp_path):
    with in_browser(built(name).page(), tmp_path, width=400) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert all(page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)"))


def strings_of(data):
    if isinstance(data, str):
        return [data]
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list) else []
    return [text for part in parts for text in strings_of(part)]


def test_a_monitor_that_measured_nothing_says_so():
    with pytest.raises(ValueError, match="no concept was scored yet"):
        ExplanationMonitor().top()
    page = ExplanationMonitor(**monitored()).page()
    assert_self_contained(page)
    assert any("Nothing was measured yet" in text for text in Tags(page).texts)


def test_no_kind_of_result_is_forgotten():
    kinds = {type(built(name)).__name__ for name in RESULTS}
    assert concrete(Shown) == kinds | {Exploration.__name__, ExplainedResponse.__name__}  # have tests of their own


def concrete(kind):
    below = {name for one in kind.__subclasses__() for name in concrete(one)}
    ours = kind.__module__.startswith(("captum_attn", "lightning_callbacks", "shap_attn"))
    return below | ({kind.__name__} if ours and not kind.__abstractmethods__ else set())
