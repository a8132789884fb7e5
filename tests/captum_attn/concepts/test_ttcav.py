"""T-TCAV as users call it, against a plain implementation with hooks, eager attention and scikit-learn."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from captum.concept import Concept
from families import FAMILIES, SEP, VOCABULARY
from helpers.small_models import load_text_model
from models import PlainClassifier, left_untouched
from peft import LoraConfig, get_peft_model
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2LMHeadModel

from captum_attn import TTCAV
from captum_attn.concepts import DiscriminantCAVs, LogisticCAVs, agreement, pattern_cavs
from captum_attn.concepts.token_states import draw_negatives
from captum_attn.core.perturb import seeded

QUIET = {"show_progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:concept .* its vectors separate held-out")


def images(count, seed, shift=0.0):
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) + shift


def image_concepts(count=6):
    return {"bright": images(count, 1, 0.5), "dark": images(count, 2, -0.5), "plain": images(count, 3)}


def texts(count, seed, low=5, high=VOCABULARY):
    """Token ids of ragged texts, one mapping each with its attention mask."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randint(low, high, (int(n),), generator=generator)
        for n in torch.randint(3, 8, (count,), generator=generator)
    ]
    return [torch.tensor([2, *row.tolist(), SEP]) for row in rows]


def padded(rows, side="right"):
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), 1)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        if side == "left":
            ids[place] = ids[place].roll(length - len(row))
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def text_concepts(count=6):
    ranges = {"low": (5, 20), "middle": (20, 40), "high": (40, 60)}
    return {name: padded(texts(count, seed, *ends)) for seed, (name, ends) in enumerate(ranges.items())}


def vit(seed=0):
    torch.manual_seed(seed)
    return FAMILIES["vit"].build()


@pytest.fixture
def bert():
    return FAMILIES["bert"].build()


def returned_by(model, name, batch):
    """What a module returns in a forward pass of the whole batch, and the model's output."""
    kept = []
    keep = lambda _, __, output: kept.append(output if isinstance(output, Tensor) else output[0])  # noqa: E731
    hook = model.get_submodule(name).register_forward_hook(keep)
    output = model(**batch, output_attentions=True)
    hook.remove()
    return kept[0], output


def one_by_one(batch):
    return (
        {name: column[row : row + 1] for name, column in batch.items()} for row in range(len(batch[next(iter(batch))]))
    )


def plain_ttcav(family, model, inputs, concepts, layers, target, scope, weighted, cavs):
    """Sign counts and magnitudes (K, m) of each layer, one input, one token, one vector at a time."""
    eager = family.build(implementation="eager")
    eager.load_state_dict(model.state_dict())
    scores = {name: ([], []) for name in layers}
    for row, single in enumerate(one_by_one(inputs)):
        for layer, name in enumerate(layers):
            hidden, output = returned_by(eager, name, single)
            (gradient,) = torch.autograd.grad(output.logits[0, target], hidden)
            weights = output.attentions[layer][0].mean(0)[0] if weighted else torch.ones(gradient.shape[1])
            counted = scope(inputs, row)
            sensitivities = torch.stack([weights[i] * gradient[0, i] @ cavs[name].flatten(0, 1).mT for i in counted])
            scores[name][0].append(sensitivities.mean(0) > 0)
            scores[name][1].append(sensitivities.sum(0))
    shape = next(iter(cavs.values())).shape[:2]
    return {
        name: (torch.stack(signs).float().mean(0).view(shape), torch.stack(sums).mean(0).view(shape))
        for name, (signs, sums) in scores.items()
    }


SCOPES = {
    "players": lambda inputs, row: (
        range(1, 10)
        if "pixel_values" in inputs
        else [i for i, id in enumerate(inputs["input_ids"][row]) if id not in (1, 2, SEP)]
    ),
    "readout": lambda inputs, row: [0],
    "all": lambda inputs, row: (
        range(10) if "pixel_values" in inputs else inputs["attention_mask"][row].nonzero().flatten().tolist()
    ),
}


@pytest.mark.parametrize("scope", list(SCOPES))
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_scores_are_those_of_a_plain_implementation(name, scope):
    family, model = FAMILIES[name], FAMILIES[name].build()
    inputs = {"pixel_values": images(7, 9)} if family.vision else padded(texts(7, 9))
    concepts = image_concepts() if family.vision else text_concepts()
    ttcav = TTCAV(model, n_cavs=4, tokens=scope, estimator="logistic", batch_size=3)
    scores = ttcav.interpret(inputs, concepts, target=2, **QUIET)["0-1-2"]
    layers = list(scores)
    cavs = {layer: scores[layer]["cavs"] for layer in layers}
    expected = plain_ttcav(family, model, inputs, concepts, layers, 2, SCOPES[scope], scope != "readout", cavs)
    for place, layer in enumerate(layers):
        signs, magnitudes = expected[layer]
        if place == 2 and scope == "players":  # the last layer's words have no gradient
            assert scores[layer]["sign_count_per_cav"].isnan().all()
            continue
        torch.testing.assert_close(scores[layer]["sign_count_per_cav"], signs)
        torch.testing.assert_close(scores[layer]["magnitude_per_cav"], magnitudes, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(scores[layer]["sign_count"], signs.mean(1))


@pytest.mark.parametrize("scope", list(SCOPES))
def test_vectors_are_scikit_learns_on_the_same_draws(scope):
    family, model, concepts = FAMILIES["bert"], FAMILIES["bert"].build(), text_concepts()
    ttcav = TTCAV(model, layers=1, n_cavs=3, tokens=scope, estimator=LogisticCAVs(max_iterations=400, tolerance=1e-9))
    found = ttcav.interpret(padded(texts(3, 9)), concepts, 0, **QUIET)["0-1-2"]["bert.encoder.layer.1"]["cavs"]
    eager = family.build(implementation="eager")
    eager.load_state_dict(model.state_dict())
    tokens = []  # of each example
    for examples in concepts.values():
        for row, single in enumerate(one_by_one(examples)):
            hidden, _ = returned_by(eager, "bert.encoder.layer.1", single)
            tokens.append(hidden[0, list(SCOPES[scope](examples, row))].detach())
    draws = draw_negatives(torch.arange(3).repeat_interleave(6), 3, seeded(0, 0))
    for cav in range(9):
        weights = [draws.positive[cav, e] + draws.negative[cav, e] for e in range(18)]
        counted = torch.cat([w.expand(len(t)) for w, t in zip(weights, tokens, strict=True)])
        labels = torch.cat([draws.positive[cav, e].expand(len(t)) for e, t in enumerate(tokens)])
        reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(
            torch.cat(tokens).double().numpy(), labels.numpy(), sample_weight=counted.double().numpy()
        )
        expected = torch.nn.functional.normalize(torch.tensor(reference.coef_[0]).float(), dim=0)
        assert found[cav // 3, cav % 3] @ expected > 0.9999


def test_the_mean_shift_effect_is_the_change_of_the_output_to_first_order():
    """Under uniform weights the effect is the derivative of the output as all words' states move together."""
    model = FAMILIES["bert"].build(torch.float64)
    inputs, concepts = padded(texts(5, 9)), text_concepts()
    ttcav = TTCAV(model, layers=0, n_cavs=2, weighting="uniform", tokens="players")
    scores = ttcav.interpret(inputs, concepts, 1, **QUIET)
    means = []
    for examples in concepts.values():
        states = returned_by(model, "bert.encoder.layer.0", examples)[0].detach()
        each = [states[row, list(SCOPES["players"](examples, row))].mean(0) for row in range(6)]
        means.append(torch.stack(each).mean(0))
    words = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for row in range(5):
        words[row, list(SCOPES["players"](inputs, row))] = True
    for k in range(3):
        others = [mean for other, mean in enumerate(means) if other != k]
        step = 1e-4 * (means[k] - torch.stack(others).mean(0))

        def shifted(sign, step=step):
            move = lambda _, __, output: output + sign * step * words[..., None]  # noqa: E731
            hook = model.get_submodule("bert.encoder.layer.0").register_forward_hook(move)
            logits = model(**inputs).logits[:, 1].detach()
            hook.remove()
            return logits

        change = (shifted(1) - shifted(-1)).mean() / 2e-4
        assert float(scores["0-1-2"]["bert.encoder.layer.0"]["effect"][k]) == pytest.approx(float(change), rel=1e-3)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "albert", "vit", "dinov2", "deberta_v2", "modernbert"])
@pytest.mark.parametrize("scope", list(SCOPES))
def test_families_give_the_same_scores_one_by_one_and_in_batches_and_are_left_untouched(name, scope):
    family = FAMILIES[name]
    model = family.build()
    concepts = image_concepts() if family.vision else text_concepts()
    inputs = {"pixel_values": images(5, 9)} if family.vision else padded(texts(5, 9))
    with left_untouched(model):
        whole = TTCAV(model, n_cavs=3, tokens=scope).interpret(inputs, concepts, 1, **QUIET)
        single = TTCAV(model, n_cavs=3, tokens=scope, batch_size=1).interpret(inputs, concepts, 1, **QUIET)
    assert len(whole["0-1-2"]) == 3
    for layer, scores in whole["0-1-2"].items():
        for kind in ("sign_count", "effect"):
            torch.testing.assert_close(
                single["0-1-2"][layer][kind], scores[kind], rtol=1e-3, atol=1e-5, equal_nan=True, msg=f"{layer} {kind}"
            )


def test_padding_on_either_side_changes_nothing():
    model, rows = FAMILIES["llama"].build(), texts(5, 9)
    concepts = {"low": texts(6, 0, 5, 25), "high": texts(6, 1, 25, 50)}

    def scored(side):
        sets = {name: padded(examples, side) for name, examples in concepts.items()}
        return TTCAV(model, n_cavs=3).interpret(padded(rows, side), sets, 1, **QUIET)["0-1"]

    left, right = scored("left"), scored("right")
    for layer, scores in right.items():
        torch.testing.assert_close(left[layer]["effect"], scores["effect"], rtol=1e-3, atol=1e-6)


def test_every_form_of_examples_is_read_alike():
    model = vit()
    bright, dark = images(6, 1, 0.5), images(6, 2, -0.5)
    inputs = images(4, 9)

    def scored(first, second, given=inputs):
        sets = [[Concept(0, "bright", first), Concept(1, "dark", second)]]
        result = TTCAV(model, n_cavs=2).interpret(given, sets, 0, **QUIET)
        return result["0-1"]["vit.layers.0"]["effect"]

    expected = TTCAV(model, n_cavs=2).interpret(inputs, {"bright": bright, "dark": dark}, 0, **QUIET)
    expected = expected["0-1"]["vit.layers.0"]["effect"]
    forms = {
        "tensors": (bright, dark),
        "loaders of tensors": (DataLoader(bright, batch_size=4), DataLoader(dark, batch_size=5)),
        "loaders of tuples": (DataLoader(TensorDataset(bright), 4), DataLoader(TensorDataset(dark), 2)),
        "loaders of mappings": ([{"pixel_values": bright[:4]}, {"pixel_values": bright[4:]}], [{"pixel_values": dark}]),
        "lists of images": (list(bright), list(dark)),
        "generators": (iter(bright.split(1)), (part for part in dark.split(3))),
    }
    for name, (first, second) in forms.items():
        torch.testing.assert_close(scored(first, second), expected, rtol=1e-4, atol=1e-7, msg=name)
    for given in ({"pixel_values": inputs}, list(inputs), DataLoader(inputs, 3), (inputs,)):
        torch.testing.assert_close(scored(bright, dark, given), expected, rtol=1e-4, atol=1e-7)


def test_texts_are_read_with_a_tokenizer():
    model, tokenizer = load_text_model()
    praise = ["so funny", "a gem", "superb acting", "a delight", "warm , funny and wise", "gripping"]
    blame = ["so slow", "a mess", "awful acting", "a bore", "cold , stale and dull", "tedious"]
    inputs = ["a gripping , funny film", "charming"]
    ttcav = TTCAV(model, processor=tokenizer, n_cavs=5)
    by_text = ttcav.interpret(inputs, {"praise": praise, "blame": blame}, 1, **QUIET)
    loader = DataLoader(praise, batch_size=2)  # batches of texts
    by_loader = ttcav.interpret(inputs, [[Concept(0, "praise", loader), Concept(1, "blame", iter(blame))]], 1, **QUIET)
    ids = tokenizer(inputs, padding=True, return_tensors="pt")
    by_ids = ttcav.interpret(dict(ids), {"praise": praise, "blame": blame}, 1, **QUIET)
    for other in (by_loader, by_ids):
        for layer, scores in by_text["0-1"].items():
            torch.testing.assert_close(other["0-1"][layer]["effect"], scores["effect"], rtol=1e-3, atol=1e-6)


def test_targets_are_captums(bert):
    inputs, concepts = padded(texts(4, 9)), text_concepts()
    ttcav = TTCAV(bert, n_cavs=2)
    predicted = bert(**inputs).logits.argmax(-1)
    by_class = [ttcav.interpret(inputs, concepts, target, **QUIET) for target in (None, predicted, predicted.tolist())]
    assert by_class[0].targets.flatten().tolist() == predicted.tolist()
    for result in by_class[1:]:
        torch.testing.assert_close(
            result["0-1-2"]["bert.encoder.layer.0"]["effect"], by_class[0]["0-1-2"]["bert.encoder.layer.0"]["effect"]
        )


def test_each_input_has_its_own_target_in_every_batch(bert):
    inputs, concepts, targets = padded(texts(5, 9)), text_concepts(), [0, 1, 2, 1, 0]
    whole, parts = (
        TTCAV(bert, 0, n_cavs=2, batch_size=size).interpret(inputs, concepts, targets, **QUIET) for size in (9, 2)
    )
    assert parts.targets.flatten().tolist() == targets
    name = "bert.encoder.layer.0"
    torch.testing.assert_close(parts["0-1-2"][name]["effect"], whole["0-1-2"][name]["effect"], rtol=1e-3, atol=1e-6)
    maps = TTCAV(bert, 0, n_cavs=2, batch_size=2).sensitivity_maps(inputs, concepts, targets, **QUIET)
    assert maps.targets.flatten().tolist() == targets


def test_next_tokens_of_a_language_model_can_be_explained():
    model = GPT2LMHeadModel(FAMILIES["gpt2"].config()).eval()
    for scope in SCOPES:
        scores = TTCAV(model, n_cavs=2, tokens=scope).interpret(padded(texts(4, 9)), text_concepts(), (-1, 7), **QUIET)
        assert scores.targets.shape == (4, 2)
        assert scores["0-1-2"]["transformer.h.0"]["effect"].any()
        listed = TTCAV(model, n_cavs=2, tokens=scope).interpret(
            padded(texts(4, 9)), text_concepts(), [(-1, 7)] * 4, **QUIET
        )
        assert listed.table().equals(scores.table())


def test_layers_are_chosen_by_index_and_by_name(bert):
    inputs, concepts = padded(texts(3, 9)), text_concepts()

    def names(layers):
        return list(TTCAV(bert, layers, n_cavs=1).interpret(inputs, concepts, 0, **QUIET)["0-1-2"])

    assert names(None) == [f"bert.encoder.layer.{layer}" for layer in range(3)]
    assert names(-2) == names([1]) == names("bert.encoder.layer.1") == ["bert.encoder.layer.1"]
    assert names([2, "bert.encoder.layer.0.output"]) == ["bert.encoder.layer.0.output", "bert.encoder.layer.2"]


def test_shared_layers_have_names_of_their_own():
    model = FAMILIES["albert"].build()
    scores = TTCAV(model, n_cavs=1).interpret(padded(texts(3, 9)), text_concepts(), 0, **QUIET)["0-1-2"]
    name = "albert.encoder.albert_layer_groups.0"
    assert list(scores) == [name, f"{name}#1", f"{name}#2"]
    with pytest.raises(ValueError, match="runs 3 times in a forward pass: give the indices of layers"):
        TTCAV(model, name, n_cavs=1).interpret(padded(texts(3, 9)), text_concepts(), 0, **QUIET)


def test_several_sets_have_captums_keys():
    model = vit()
    concepts = [Concept(id, name, part) for id, (name, part) in enumerate(image_concepts().items())]
    scores = TTCAV(model, 0, n_cavs=2).interpret(images(4, 9), [concepts[:2], [concepts[0], concepts[2]]], 0, **QUIET)
    assert list(scores) == ["0-1", "0-2"]
    assert scores["0-2"]["vit.layers.0"]["sign_count"].shape == (2,)
    assert len(scores.table()) == 4
    alone = TTCAV(model, 0, n_cavs=2).interpret(images(4, 9), [concepts[:2]], 0, **QUIET)
    assert torch.equal(alone["0-1"]["vit.layers.0"]["cavs"], scores["0-1"]["vit.layers.0"]["cavs"])


def test_one_set_needs_no_list_around_it():
    model, parts = vit(), image_concepts()
    concepts = [Concept(id, name, part) for id, (name, part) in enumerate(parts.items())]
    ttcav = TTCAV(model, n_cavs=2)
    expected = ttcav.interpret(images(4, 9), [concepts], 0, **QUIET).table()
    assert ttcav.interpret(images(4, 9), concepts, 0, **QUIET).table().equals(expected)
    maps = [ttcav.sensitivity_maps(images(2, 9), given, 0, **QUIET).values for given in (concepts, [concepts], parts)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    with pytest.raises(ValueError, match="maps are of one experimental set, got 2"):
        ttcav.sensitivity_maps(images(2, 9), [concepts, concepts[:2]], 0, **QUIET)


def test_tests_that_nothing_can_pass_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"no p-value can be below 0.02, so that after a correction for 3 tests nothing"
    ):
        TTCAV(vit(), n_cavs=1, permutations=99).interpret(images(4, 9), image_concepts(), 0, **QUIET)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no p-value can be below")
        few = {"a": padded(texts(5, 1)), "b": padded(texts(5, 2))}  # of 252 splits, two are enough for two concepts
        TTCAV(FAMILIES["bert"].build(), n_cavs=1).interpret(padded(texts(3, 9)), few, 0, **QUIET)


def test_errors_of_the_model_name_the_concept():
    sets = {"fine": images(6, 1), "wide": torch.rand(6, 3, 12, 20)}
    with pytest.raises(ValueError, match="Input image size") as caught:
        TTCAV(vit()).interpret(images(4, 9), sets, 0, **QUIET)
    assert "while the model read the examples of concept 'wide'" in caught.value.__notes__


def test_everything_comes_from_the_seed():
    model, inputs, concepts = vit(), images(4, 9), image_concepts()
    torch.manual_seed(1)
    first = TTCAV(model, n_cavs=3).interpret(inputs, concepts, 0, **QUIET).table()
    torch.manual_seed(2)
    again = TTCAV(model, n_cavs=3).interpret(inputs, concepts, 0, **QUIET).table()
    other = TTCAV(model, n_cavs=3, seed=1).interpret(inputs, concepts, 0, **QUIET).table()
    assert first.equals(again)
    assert not first.equals(other)


def test_loaders_do_not_touch_the_random_state():
    parts = image_concepts().values()
    sets = [[Concept(k, str(k), DataLoader(part, 4, shuffle=True)) for k, part in enumerate(parts)]]
    ttcav = TTCAV(vit(), 0, n_cavs=1)
    before = torch.get_rng_state()
    ttcav.interpret(DataLoader(images(4, 9)), sets, 0, **QUIET)
    assert torch.equal(torch.get_rng_state(), before)


def test_estimators_can_be_of_your_own():
    model, inputs, concepts = vit(), images(4, 9), image_concepts()
    found = {}
    for name, estimator in {"mine": pattern_cavs, "pattern": "pattern", "full": DiscriminantCAVs(1.0)}.items():
        found[name] = TTCAV(model, n_cavs=3, estimator=estimator).interpret(inputs, concepts, 0, **QUIET)
    table = agreement(found)
    same = table[(table["first"] == "mine") & (table["second"] == "pattern")]
    assert same.cosine.tolist() == pytest.approx([1] * 9, abs=1e-5)
    assert len(table) == 27
    with pytest.raises(ValueError, match="at least two settings"):
        agreement({"mine": found["mine"]})


def test_lora_models_are_explained_as_they_are_switched():
    model = get_peft_model(FAMILIES["bert"].build(), LoraConfig(target_modules=["query", "value"], r=2))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    model.eval()
    ttcav, inputs, concepts = TTCAV(model, 0, n_cavs=2), padded(texts(4, 9)), text_concepts()
    (name,) = ttcav.interpret(inputs, concepts, 0, **QUIET)["0-1-2"]
    on = ttcav.interpret(inputs, concepts, 0, **QUIET)["0-1-2"][name]["cavs"]
    with model.disable_adapter():
        off = ttcav.interpret(inputs, concepts, 0, **QUIET)["0-1-2"][name]["cavs"]
    assert not torch.allclose(on, off)
    assert torch.equal(ttcav.interpret(inputs, concepts, 0, **QUIET)["0-1-2"][name]["cavs"], on)


def test_plain_torch_models_and_other_arguments():
    model = PlainClassifier().eval()
    concepts = {name: torch.randn(6, 5, 16) + shift for name, shift in {"up": 1.0, "down": -1.0}.items()}
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:, 3:] = True
    ttcav = TTCAV(model, n_cavs=2, batch_size=3)
    embeddings = torch.randn(4, 5, 16)
    scores = ttcav.interpret(embeddings, concepts, 0, mask, **QUIET)
    shorter = ttcav.interpret(embeddings[:, :3], concepts, 0, **QUIET)
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        torch.testing.assert_close(
            scores["0-1"][layer]["effect"], shorter["0-1"][layer]["effect"], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("estimator", ["discriminant", "logistic", "pattern"])
def test_it_works_under_no_grad_and_inference_mode(estimator):
    model, inputs, concepts = vit(), images(4, 9), image_concepts()
    expected = TTCAV(model, n_cavs=2, estimator=estimator).interpret(inputs, concepts, 0, **QUIET).table()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            ttcav = TTCAV(model, n_cavs=2, estimator=estimator)
            assert ttcav.interpret(inputs.clone(), concepts, 0, **QUIET).table().equals(expected)


def test_modules_of_the_decoder_are_refused():
    bart = FAMILIES["bart"].build()
    with pytest.raises(
        ValueError, match=r"'model.decoder.layers.1' returns states behind attention .* not of the stack"
    ):
        TTCAV(bart, "model.decoder.layers.1", n_cavs=1).interpret(padded(texts(3, 9)), text_concepts(), 0, **QUIET)


def test_several_readout_tokens_are_weighted_by_attention():
    model, sets = FAMILIES["dinov2"].build(), image_concepts()
    found = [
        TTCAV(model, 1, n_cavs=1, weighting=weighting).interpret(images(4, 9), sets, 0, **QUIET)["0-1-2"]
        for weighting in ("attention", "uniform")
    ]
    attended, plain = (next(iter(scores.values()))["effect"] for scores in found)
    assert not torch.allclose(attended, plain)


def test_loaders_of_embeddings_are_read_as_batches():
    model = PlainClassifier().eval()
    up, down = torch.randn(6, 5, 16) + 1, torch.randn(6, 5, 16) - 1
    ttcav = TTCAV(model, n_cavs=1)
    inputs = torch.randn(5, 5, 16)
    expected = ttcav.interpret(inputs, {"up": up, "down": down}, 0, **QUIET)["0-1"]["encoder.layers.0"]["effect"]
    sets = {"up": DataLoader(up, 3), "down": DataLoader(TensorDataset(down), 2)}
    found = ttcav.interpret(DataLoader(inputs, 4), sets, 0, **QUIET)["0-1"]["encoder.layers.0"]["effect"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_results_can_be_pickled():
    concepts = [Concept(id, name, part) for id, (name, part) in enumerate(image_concepts().items())]
    scores = TTCAV(vit(), n_cavs=2).interpret(images(4, 9), [concepts], 0, **QUIET)
    assert pickle.loads(pickle.dumps(scores)).table().equals(scores.table())


@pytest.mark.parametrize("tokens", list(SCOPES))
def test_half_precision_changes_little(tokens):
    model, inputs, concepts = vit(), images(6, 9), image_concepts()
    exact = TTCAV(model, 0, n_cavs=2, tokens=tokens).interpret(inputs, concepts, 0, **QUIET)
    half = copy.deepcopy(model).bfloat16()
    halves = {name: part.bfloat16() for name, part in concepts.items()}
    rounded = TTCAV(half, 0, n_cavs=2, tokens=tokens).interpret(inputs.bfloat16(), halves, 0, **QUIET)
    effects = [result["0-1-2"]["vit.layers.0"]["effect"] for result in (exact, rounded)]
    assert (effects[1] - effects[0]).norm() < 0.1 * effects[0].norm()


BAD = {
    "a function": ({"model": lambda x: x}, {}, TypeError, "model must be a module, got function"),
    "scope": ({"tokens": "words"}, {}, ValueError, "tokens must be one of 'players', 'readout', 'all', got 'words'"),
    "weighting": ({"weighting": "none"}, {}, ValueError, "weighting must be one of 'attention', 'uniform'"),
    "estimator": ({"estimator": "svm"}, {}, ValueError, "estimator must be one of 'discriminant', 'logistic'"),
    "no vectors": ({"n_cavs": 0}, {}, ValueError, "n_cavs must be an int of at least 1, got 0"),
    "layer index": ({"layers": 7}, {}, IndexError, r"layers \[7\] out of range: the model has 3"),
    "layer name": (
        {"layers": "vit.layer.1"},
        {},
        ValueError,
        r"no module 'vit.layer.1'; similar names: 'vit.layers.1'",
    ),
    "before attention": ({"layers": "vit.embeddings"}, {}, ValueError, "returns before the first attention"),
    "no states": ({"layers": "classifier"}, {}, ValueError, r"returned a tensor of shape \(1, 3\), expected hidden"),
    "unused": ({"layers": "vit.layers"}, {}, ValueError, "does not run, or is no part that is called"),
    "no sets": ({}, {"experimental_sets": []}, ValueError, r"at least two different concepts, got \[\]"),
    "the same set twice": (
        {},
        {"experimental_sets": [[Concept(k, str(k), images(6, k)) for k in order] for order in ((0, 1), (1, 0))]},
        ValueError,
        "two experimental sets have the same concepts",
    ),
    "the same names": (
        {},
        {"experimental_sets": [Concept(k, "a", images(6, k)) for k in range(2)]},
        ValueError,
        r"at least two different concepts, got \['a', 'a'\]",
    ),
    "no layers": ({"layers": []}, {}, ValueError, "layers is empty"),
    "a tokenizer for layers": ({"layers": load_text_model}, {}, TypeError, "layers must be .*, got function"),
    "seed": ({"seed": -1}, {}, ValueError, "seed must be an int of at least 0, got -1"),
    "labels": (
        {},
        {"inputs": DataLoader(TensorDataset(images(4, 9), torch.arange(4)), 2)},
        ValueError,
        "inputs: a batch holds a tensor with one number for each example .*, such as labels",
    ),
    "a cache that is a file": (
        {"cache_dir": __file__},
        {},
        NotADirectoryError,
        "cache_dir must be a folder, got the file",
    ),
    "other arguments beside a list": (
        {},
        {"inputs": {"pixel_values": images(4, 9)}, "additional_forward_args": torch.ones(4, 3)},
        ValueError,
        "additional_forward_args go with a tensor of inputs",
    ),
    "one-sided": (
        {},
        {"experimental_sets": {"a": images(6, 1)}},
        ValueError,
        r"at least two different concepts, got \['a'\]",
    ),
    "too few": (
        {},
        {"experimental_sets": {"a": images(2, 1), "b": images(6, 2)}},
        ValueError,
        "concept 'a' has too few examples, 2: expected at least 5",
    ),
    "no examples": (
        {},
        {"experimental_sets": {"a": [], "b": images(6, 2)}},
        ValueError,
        "concept 'a': there are no examples",
    ),
    "no concepts": (
        {},
        {"experimental_sets": [["a", "b"]]},
        TypeError,
        "list of lists of captum.concept.Concept, .* got str",
    ),
    "same ids": (
        {},
        {"experimental_sets": [[Concept(0, "a", images(6, 1)), Concept(0, "b", images(6, 2))]]},
        ValueError,
        "'a' and 'b' have the same id 0",
    ),
    "no data": (
        {},
        {"experimental_sets": [[Concept(0, "a", None), Concept(1, "b", None)]]},
        ValueError,
        "'a' has no examples",
    ),
    "a path": (
        {},
        {"inputs": "cat.png"},
        TypeError,
        "inputs: expected examples, got 'cat.png': a single one goes into",
    ),
    "texts": ({}, {"inputs": ["a", "b"]}, TypeError, "inputs: str needs processor="),
    "target": ({}, {"target": 9}, IndexError, "target 9 is out of range"),
    "targets": ({}, {"target": [0, 1]}, ValueError, "2 targets for a batch of 4"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_with_what_was_expected(case):
    given, call, error, message = BAD[case]
    model = vit()
    call = {"inputs": images(4, 9), "experimental_sets": image_concepts(), "target": 0, **call, **QUIET}
    with left_untouched(model), pytest.raises(error, match=message):
        TTCAV(**{"model": model, "n_cavs": 1, **given}).interpret(**call)
