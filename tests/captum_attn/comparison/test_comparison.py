"""Comparisons against plain loops over single texts and images."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from cut_images import CUT, assert_over_its_pixels, read_by_each_token
from families import FAMILIES, text_batch
from helpers.small_models import digits, load_image_model, load_text_model
from models import left_untouched
from pages import views_of
from PIL import Image
from scipy.stats import kendalltau

from captum_attn import MaskTunnel, ShapleyAttention, ShapleyGradAttention
from captum_attn.comparison import Comparison, compare
from captum_attn.metrics import Metric, evaluate

TEXTS = [
    "a gripping , funny film that never lets go",
    "not good at all , and far too long",
    "the cast is a delight",
    "one of the worst films of the year , without a doubt",
    "dull",
]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


@pytest.fixture(scope="module")
def image_model():
    return load_image_model()


def by_id(batch, targets):
    """Scores with ties that depend on the ids alone."""
    return ((batch["input_ids"] * 7919) % 5).float()


def by_place(batch, targets):
    """Early tokens first; negative from the fifth on."""
    return 4.0 - torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])


def backwards(batch, targets):
    return -by_place(batch, targets)


def silent(batch, targets):
    return torch.ones(batch["input_ids"].shape)


PLAIN = {"ids": by_id, "place": by_place, "backwards": backwards}


def run(text_model, methods=PLAIN, inputs=TEXTS, **options):
    model, tokenizer = text_model
    return compare(model, inputs, methods, **{"tokenizer": tokenizer, "show_progress": False, **options})


def row(frame, **values):
    """The only row with these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.fixture(scope="module")
def plain(text_model):
    return run(text_model, batch_size=2)


def scores_of(tokenizer, text, method):
    """A method's scores of one text's tokens, special ones left out."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    return method({"input_ids": ids}, None)[0, 1:-1].tolist()


def test_agreement_is_what_a_loop_over_single_texts_finds(text_model, plain):
    for (name, method), (other_name, other_method) in combinations(PLAIN.items(), 2):
        tau, magnitudes, expected = [], [], []
        for text in TEXTS[:-1]:  # "dull" is one token
            first, second = (np.array(scores_of(text_model[1], text, one)) for one in (method, other_method))
            tau.append(kendalltau(first, second).statistic)
            magnitudes.append(kendalltau(abs(first), abs(second)).statistic)
            expected.append(math.ceil(len(first) / 5) / len(first))
        found = row(plain.agreement(), method=name, other=other_name)
        assert found.kendall_tau == pytest.approx(np.mean(tau))
        assert found.standard_error == pytest.approx(np.std(tau, ddof=1) / 2)
        assert found.kendall_tau_of_magnitudes == pytest.approx(np.mean(magnitudes))
        assert found.expected_by_chance == pytest.approx(np.mean(expected))
        assert (found.n, found.left_out) == (4, 1)
        assert plain.matrix().loc[name, other_name] == plain.matrix().loc[other_name, name] == found.kendall_tau


def test_a_ranking_and_its_reverse_have_nothing_in_common(plain):
    found = row(plain.agreement(), method="place", other="backwards")
    assert found.kendall_tau == -1
    assert found.top_k_overlap == found.same_top == 0


def test_the_top_can_be_a_number_of_tokens(text_model):
    found = row(run(text_model, inputs=TEXTS[2:3], top_k=3).agreement(), method="place", other="backwards")
    assert found.top_k_overlap == pytest.approx(1 / 3)  # of five tokens, the first three and the last three
    assert found.expected_by_chance == pytest.approx(3 / 5)


def test_faithfulness_is_the_evaluations(text_model, plain):
    model, tokenizer = text_model
    labels = [1, 0, 1, 0, 0]
    options = {"labels": labels, "interventions": ["replacement", "knockout"], "tokenizer": tokenizer}
    expected = evaluate(model, TEXTS, PLAIN, show_progress=False, **options).table()
    found = run(text_model, **options)
    pd.testing.assert_frame_equal(
        found.evaluation.table().query("metric != 'seconds'"), expected.query("metric != 'seconds'")
    )
    for own in found.table().itertuples():
        for metric, intervention, column in (
            ("comprehensiveness", "replacement", "comprehensiveness"),
            ("comprehensiveness", "knockout", "comprehensiveness_knockout"),
            ("sufficiency", "replacement", "sufficiency"),
            ("f1_macro", "knockout", "f1_macro_knockout"),
        ):
            one = row(expected, method=own.method, metric=metric, intervention=intervention, ranking="scores")
            assert getattr(own, column) == pytest.approx(one["mean"])
            assert getattr(own, f"{column}_error") == pytest.approx(one["standard_error"])
        one = row(expected, method=own.method, metric="comprehensiveness", ranking="reversed")
        assert own.comprehensiveness_reversed == pytest.approx(one["mean"])
        assert own.seconds > 0


def test_the_table_has_a_row_for_each_method_the_most_faithful_first(plain):
    table = plain.table()
    assert set(table.method) == {*PLAIN, "random"}
    assert table.comprehensiveness.is_monotonic_decreasing
    assert dict(zip(table.method, table.signed, strict=True)) == {
        "ids": False,
        "place": True,
        "backwards": True,
        "random": False,
    }
    matrix = plain.matrix()
    own = row(table, method="ids")
    assert own.agreement == pytest.approx((matrix.loc["ids", "place"] + matrix.loc["ids", "backwards"]) / 2)
    assert row(table, method="random").agreement == pytest.approx(matrix.loc["random"].drop("random").mean())


def test_metrics_of_ones_own_stand_beside_the_usual_ones(text_model, plain):
    lost = Metric("flips", True, ["without_top"], lambda p: (p < 0.5).float().mean(-1))
    result = run(text_model, metrics=["log_odds", lost])
    expected = result.evaluation.table(["flips"]).query("ranking == 'scores'").set_index("method")
    table = result.table().set_index("method")
    assert table.flips.to_dict() == expected["mean"].to_dict()
    assert table.flips_error.to_dict() == expected.standard_error.to_dict()
    usual = [column for column in plain.table().columns if column != "seconds"]
    pd.testing.assert_frame_equal(result.table()[usual], plain.table()[usual], rtol=1e-4)
    page = result.page()
    assert ">flips\u00a0↑</th>" in page
    assert ">log odds\u00a0↓</th>" in page
    with pytest.raises(ValueError, match="f1_macro cannot be evaluated without labels="):
        run(text_model, metrics=["f1_macro"])
    for name in ("agreement", "comprehensiveness_error", "mine_knockout"):
        with pytest.raises(ValueError, match="have names of other columns of the table, or endings"):
            run(text_model, metrics=[Metric(name, True, ["whole"], torch.abs)])


def test_the_same_method_twice_agrees_fully_and_random_scores_with_nobody(text_model):
    model, tokenizer = text_model
    methods = {"one": ShapleyGradAttention(model, tokenizer=tokenizer), "two": by_id}
    methods["one again"] = ShapleyGradAttention(model, tokenizer=tokenizer)
    found = run(text_model, methods, inputs=TEXTS[:-1] * 20)
    assert row(found.agreement(), method="one", other="one again").kendall_tau == 1
    with_random = found.agreement().query("other == 'random'")
    assert len(with_random) == 3
    assert (with_random.kendall_tau.abs() < 4 * with_random.standard_error).all()


def test_each_method_is_asked_once(text_model):
    asked = []

    def counting(batch, targets):
        asked.extend(targets.tolist())
        return by_id(batch, targets)

    found = run(text_model, {"counting": counting, "place": by_place}, batch_size=2, interventions=["knockout"])
    found.table(), found.cautions(), found.page(), found.plot()
    assert len(asked) == len(TEXTS)


def test_scores_come_in_the_order_of_the_inputs_with_their_tokens(text_model, plain):
    for text, one, scores in zip(TEXTS, plain.inputs, plain.scores("ids"), strict=True):
        assert one.tokens == text.split()  # every word is one token of the model's
        assert scores.tolist() == scores_of(text_model[1], text, by_id)
    with pytest.raises(ValueError, match="unknown method 'none': expected one of 'ids', 'place'"):
        plain.scores("none")


def test_batches_do_not_matter(text_model, plain):
    whole = run(text_model)
    pd.testing.assert_frame_equal(whole.agreement(), plain.agreement())
    pd.testing.assert_frame_equal(whole.table().drop(columns="seconds"), plain.table().drop(columns="seconds"))


def test_a_silent_method_agrees_with_nobody_and_is_counted(text_model):
    found = run(text_model, {**PLAIN, "silent": silent})
    silent_rows = found.agreement().query("method == 'silent' or other == 'silent'")
    assert silent_rows.kendall_tau.isna().all()
    assert (silent_rows.n == 0).all()
    assert (silent_rows.left_out == len(TEXTS)).all()
    assert any("silent (5)" in sentence for sentence in found.cautions())
    assert math.isnan(row(found.table(), method="silent").agreement)
    found.plot()
    assert "silent" in found.page()


def test_reruns_are_compared_pair_by_pair(text_model):
    model, tokenizer = text_model
    gradients = ShapleyGradAttention(model, tokenizer=tokenizer)
    copies = [MaskTunnel(gradients, tokenizer, seed=seed) for seed in range(3)]
    methods = {"tunnel": copies[0], "gradients": gradients}
    found = run(text_model, methods, inputs=TEXTS[:3], reruns={"tunnel": copies[1:]}).stability()
    taus = []
    for text in TEXTS[:3]:
        batch = tokenizer(text, return_tensors="pt")
        scores = [copy.attribute_tokens(batch).values[0, 1:-1].tolist() for copy in copies]
        taus.append(np.mean([kendalltau(one, other).statistic for one, other in combinations(scores, 2)]))
    own = row(found, method="tunnel", under="reruns")
    assert own.kendall_tau == pytest.approx(np.mean(taus), abs=1e-6)
    assert own.standard_error == pytest.approx(np.std(taus, ddof=1) / 3**0.5, abs=1e-6)
    assert own.n == 3
    assert own.note == ""
    other = row(found, method="gradients", under="reruns")
    assert math.isnan(other.kendall_tau)
    assert other.note == "no copies with other seeds were given (reruns=)"
    assert set(found[found.under == "paraphrases"].note) == {"no paraphrases were given (paraphrases=, of texts)"}


def test_a_rerun_of_a_deterministic_method_is_perfectly_stable(text_model):
    model, tokenizer = text_model
    one, other = (ShapleyGradAttention(model, tokenizer=tokenizer) for _ in range(2))
    found = run(text_model, {"one": one, "ids": by_id}, reruns={"one": [other]}).stability()
    assert row(found, method="one", under="reruns").kendall_tau == 1
    assert abs(row(found, method="random", under="reruns").kendall_tau) < 1


def test_a_noisy_method_is_less_stable_under_other_seeds(text_model):
    def noisy(strength, seed):
        def scores(batch, targets):
            generator = torch.Generator().manual_seed(seed)
            exact = by_place(batch, targets)
            return exact + strength * torch.randn(exact.shape, generator=generator)

        return scores

    methods = {name: noisy(strength, 0) for name, strength in (("little noise", 0.3), ("much noise", 5.0))}
    reruns = {"little noise": [noisy(0.3, 1), noisy(0.3, 2)], "much noise": [noisy(5.0, 1), noisy(5.0, 2)]}
    found = run(text_model, methods, reruns=reruns)
    stability = found.table().set_index("method").under_reruns
    assert stability["little noise"] > 0.7 > stability["much noise"]
    (caution,) = (sentence for sentence in found.cautions() if "Another seed" in sentence)
    assert "much noise" in caution
    assert "little noise" not in caution


def test_paraphrases_are_compared_on_the_words_they_share(text_model):
    texts = ["a gripping film , and funny", "the cast is a delight"]
    paraphrases = ["such a funny film , and gripping !", "a delight , the cast !"]
    found = run(text_model, inputs=texts, paraphrases=paraphrases)
    shared = [("a", "film", ",", "and"), ("the", "cast")]
    taus = []
    for text, paraphrase, words in zip(texts, paraphrases, shared, strict=True):
        scores = []
        for one in (text, paraphrase):
            of_each = dict(zip(one.split(), scores_of(text_model[1], one, by_id), strict=True))
            scores.append([of_each[word] for word in words])
        taus.append(kendalltau(*scores).statistic)
    own = row(found.stability(), method="ids", under="paraphrases")
    assert own.kendall_tau == pytest.approx(np.nanmean(taus))
    assert own.shared_words == 3
    assert own.same_prediction == 1
    assert row(found.stability(), method="place", under="paraphrases").kendall_tau == 1


def test_the_pieces_of_a_word_count_together_in_a_paraphrase(text_model):
    tokenizer = text_model[1]
    text, paraphrase = "an unbelievably gripping film", "truly an unbelievably gripping film"
    assert len(tokenizer.tokenize(text)) > 4
    found = run(text_model, inputs=[text], paraphrases=[paraphrase])
    own = row(found.stability(), method="place", under="paraphrases")
    assert own.shared_words == 4
    words = {
        sentence: sums(tokenizer.tokenize(sentence), scores_of(tokenizer, sentence, by_place))
        for sentence in (text, paraphrase)
    }
    assert own.kendall_tau == pytest.approx(kendalltau(words[text], words[paraphrase][1:]).statistic)


def sums(tokens, scores):
    """The sums over the pieces of each word."""
    found = []
    for token, score in zip(tokens, scores, strict=True):
        if token.startswith("##"):
            found[-1] += score
        else:
            found.append(score)
    return found


def test_a_paraphrase_that_changes_the_prediction_is_left_out_and_counted(text_model):
    texts = ["a gripping and funny film", "a dull film"]
    found = run(text_model, inputs=texts, paraphrases=["a truly gripping and funny film", "a gripping film"])
    own = row(found.stability(), method="place", under="paraphrases")
    assert own.same_prediction == 0.5
    assert (own.n, own.left_out) == (1, 0)
    assert any("predicted class of 50 % of the texts" in sentence for sentence in found.cautions())


def test_where_no_paraphrase_says_anything_there_is_a_reason_and_no_number(text_model):
    changed = run(text_model, inputs=["a dull film"], paraphrases=["a gripping film"]).stability()
    own = row(changed, method="ids", under="paraphrases")
    assert math.isnan(own.kendall_tau)
    assert own.note == "every paraphrase changes the predicted class"
    nothing = run(text_model, inputs=["a gripping film"], paraphrases=["truly funny"])
    own = row(nothing.stability(), method="ids", under="paraphrases")
    assert math.isnan(own.kendall_tau)
    assert own.note == "no input on which two rankings can be compared"
    assert own.shared_words == 0
    assert "no input on which two rankings" in nothing.page()


def test_random_scores_of_a_paraphrase_are_drawn_anew(text_model):
    found = run(text_model, inputs=TEXTS[:-1] * 10, paraphrases=TEXTS[:-1] * 10).stability()
    own = row(found, method="random", under="paraphrases")
    assert abs(own.kendall_tau) < 4 * own.standard_error
    assert row(found, method="ids", under="paraphrases").kendall_tau == 1


def test_images_are_compared_patch_by_patch(image_model):
    images, labels = digits()[2][:4], digits()[3][:4]

    def brightness(batch, targets):
        return batch["pixel_values"]

    def darkness(batch, targets):
        return 1 - batch["pixel_values"]

    methods = {
        "bright": brightness,
        "dark": darkness,
        "gradients": ShapleyGradAttention(image_model),
        "attention": ShapleyAttention(image_model),
    }
    found = compare(image_model, images, methods, labels=labels, show_progress=False)
    assert row(found.agreement(), method="bright", other="dark").kendall_tau == -1
    size = image_model.config.patch_size
    patches = torch.nn.functional.avg_pool2d(images, size) * size**2
    for image, scores, one in zip(patches, found.scores("bright"), found.inputs, strict=True):
        torch.testing.assert_close(scores, image.flatten().double())
        torch.testing.assert_close(one.picture.patches(scores), image[0].double())
        assert one.tokens[:2] == ["0, 0", "0, 1"]
    assert set(found.stability().note) == {
        "no copies with other seeds were given (reruns=)",
        "no paraphrases were given (paraphrases=, of texts)",
        "",  # random scores have seeds
    }
    assert [len(view["methods"]) for view in views_of(found.page())] == [5] * 3  # four methods, random


def test_ids_without_a_tokenizer_are_named_by_number():
    model, inputs = FAMILIES["bert"].build(), text_batch()
    found = compare(model, inputs, PLAIN, replacement=4, show_progress=False)
    real = inputs["attention_mask"].bool()
    expected = [list(map(str, ids[kept].tolist()[1:-1])) for ids, kept in zip(inputs["input_ids"], real, strict=True)]
    assert [one.tokens for one in found.inputs] == expected
    assert "Input " in found.page()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_model_is_left_as_it_was_in_any_mode(text_model, plain, mode):
    model, tokenizer = text_model
    gradients = ShapleyGradAttention(model, tokenizer=tokenizer)
    methods = {**PLAIN, "tunnel": MaskTunnel(gradients, tokenizer)}
    reruns = {"tunnel": [MaskTunnel(gradients, tokenizer, seed=1)]}
    with left_untouched(model), mode():
        found = run(text_model, methods, reruns=reruns, paraphrases=TEXTS)
        found.table(), found.cautions(), found.page()
    assert found.matrix().loc["ids", "place"] == plain.matrix().loc["ids", "place"]


def test_the_model_is_left_as_it_was_when_a_rerun_fails(text_model):
    def failing(batch, targets):
        raise RuntimeError("out of luck")

    with left_untouched(text_model[0]), pytest.raises(RuntimeError, match="out of luck") as caught:
        run(text_model, reruns={"ids": [failing]})
    assert caught.value.__notes__ == ["This happened in method 'ids, rerun 1'."]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methods": {"ids": by_id}}, ValueError, "at least two methods, got \\['ids'\\]"),
        ({"methods": [by_id]}, TypeError, "methods must map names to attributions, got list"),
        ({"methods": {"random": by_id, "ids": by_id}}, ValueError, "'random' is taken"),
        ({"top_k": 1.5}, ValueError, "top_k"),
        ({"reruns": [by_id]}, TypeError, "reruns must map names of methods to lists of copies, got list"),
        ({"reruns": {"who": [by_id]}}, ValueError, "reruns of \\['who'\\], which are no methods"),
        ({"reruns": {"ids": by_id}}, TypeError, "reruns of 'ids' must be a list of at least one copy"),
        ({"reruns": {"ids": []}}, TypeError, "at least one copy"),
        ({"reruns": {"ids": [by_id]}}, ValueError, "is the method itself: expected a copy with another seed"),
        ({"reruns": {"ids": [3]}}, TypeError, "method 'ids, rerun 1' is 3"),
        ({"paraphrases": TEXTS[:2]}, ValueError, "2 paraphrases for 5 texts"),
        ({"paraphrases": "a film"}, TypeError, "paraphrases must be a list of texts"),
        ({"paraphrases": [None] * 5}, TypeError, "paraphrases must be a list of texts"),
        ({"inputs": [("a", "b")], "paraphrases": ["c"]}, ValueError, "no pairs, no tensors"),
        ({"inputs": {"input_ids": torch.ones(1, 3)}, "paraphrases": ["c"]}, ValueError, "no pairs, no tensors"),
        ({"inputs": []}, ValueError, "no data"),
        ({"tokenizer": None}, ValueError, "texts need tokenizer="),
        ({"interventions": ["guessing"]}, ValueError, "interventions must be"),
    ],
)
def test_bad_input_is_named(text_model, arguments, error, message):
    with pytest.raises(error, match=message):
        run(text_model, **arguments)


def test_other_questions_about_a_comparison_are_refused(plain):
    with pytest.raises(ValueError, match="unknown metric 'tau': expected 'kendall_tau'"):
        plain.matrix("tau")
    with pytest.raises(IndexError, match="example 5 is out of range: there are 5 inputs"):
        plain.plot(5)
    with pytest.raises(ValueError, match="examples must be at least 0, got -1"):
        plain.page(-1)


def test_one_input_is_enough(text_model):
    found = run(text_model, inputs="a gripping film")
    assert found.agreement().standard_error.isna().all()
    assert repr(found) == "Comparison(1 inputs, methods: ids, place, backwards, random)"
    assert any("One input says nothing about others" in sentence for sentence in found.cautions())
    found.plot()
    assert isinstance(found, Comparison)


def test_inputs_of_one_token_alone_give_a_page_that_says_so(text_model):
    found = run(text_model, inputs=["dull", "funny"])
    assert found.agreement().kendall_tau.isna().all()
    assert any(sentence.startswith("No two methods can be compared") for sentence in found.cautions())
    found.plot()
    assert "No two methods can be compared" in found.page()


def test_pairs_of_texts_are_compared(text_model):
    found = run(text_model, inputs=[("a film", "so good"), ("a cast", "so dull")])
    assert found.inputs[0].tokens == ["a", "film", "so", "good"]


def test_inputs_are_ordered_by_agreement(plain):
    taus = []
    assert sorted(plain.by_agreement()) == [0, 1, 2, 3]  # the last text is one token
    for number in plain.by_agreement():
        scores = [plain.scores(method)[number].tolist() for method in PLAIN]
        taus.append(np.mean([kendalltau(one, other).statistic for one, other in combinations(scores, 2)]))
    assert taus == sorted(taus)


def test_tables_are_copies(plain):
    for table in (plain.table, plain.agreement, plain.stability):
        del table()["method"]
        assert "method" in table()


def test_the_figure_belongs_to_no_window_and_has_all_parts(plain, image_model, tmp_path):
    import matplotlib.pyplot as plt

    figure = plain.plot(0)
    assert not plt.get_fignums()
    texts = {text.get_text() for axes in figure.get_axes() for text in axes.get_xticklabels()}
    assert {"gripping", "film", "ids", "random"} <= texts
    assert [axes.get_title("left") for axes in figure.get_axes()][:3] == [
        "agreement: Kendall's τ",
        "comprehensiveness",
        "sufficiency",
    ]
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert Image.open(tmp_path / "figure.png").size[0] > 300
    images = compare(
        image_model,
        digits()[2][:2],
        {"a": lambda batch, targets: batch["pixel_values"], "b": lambda batch, targets: -batch["pixel_values"]},
        show_progress=False,
    )
    titles = [axes.get_title() for axes in images.plot().get_axes()]
    assert set(titles) >= {"input", "a", "b", "random"}


def test_tokens_of_a_long_text_are_counted_where_they_are_not_shown(text_model):
    figure = run(text_model, inputs=["good " * 60]).plot()
    assert "8 more tokens are not shown" in figure.subfigs[1].get_supxlabel()


def test_maps_lie_over_the_pixels_that_their_patches_read():
    model, images = CUT["cut out"]
    methods = {"ours": ShapleyGradAttention(model.eval()), "raw": ShapleyAttention(model)}
    found = compare(model, images, methods, show_progress=False)
    (axes,) = (axes for axes in found.plot(1).axes if axes.get_title() == "ours")
    values = ShapleyGradAttention(model).attribute_tokens(images).values[1]
    assert_over_its_pixels(axes.images[-1], values / values.abs().max(), read_by_each_token(model, images[1]))
