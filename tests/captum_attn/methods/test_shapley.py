"""ShapleyGradAttention and ShapleyAttention as a Captum user meets them."""

from __future__ import annotations

import gc
import pickle
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import transformers as hf
from captum.attr import Attribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from families import CLS, FAMILIES, PAD, SEP, batch, image_batch, text_batch
from models import PlainClassifier, left_untouched

from captum_attn import ShapleyAttention, ShapleyGradAttention
from captum_attn.functional import (
    GAMES,
    coalition_values,
    kernel_shapley,
    permutation_shapley,
    shapley_interactions,
    shapley_values,
)

ReadoutGame = partial(ShapleyGradAttention, game="cls")
ReadoutGameOfAttention = partial(ShapleyAttention, game="cls")


def bert():
    return FAMILIES["bert"].build()


def words(ids):
    return ~torch.isin(ids, torch.tensor([PAD, CLS, SEP]))


class Tokenizer:
    """The part of a Hugging Face tokenizer that says which ids are special; id 7 is the unknown token."""

    def __init__(self):
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        self.special_tokens_map = names
        self.all_special_ids = [PAD, CLS, SEP, 7]
        self.unk_token_id = 7


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize(
    "explainer", [ShapleyGradAttention, ShapleyAttention, partial(ShapleyGradAttention, sign="signed")]
)
def test_values_are_those_of_the_game_on_the_influence_matrix(explainer, game):
    model, inputs = bert(), text_batch()
    attribution = explainer(model, game=game)
    matrix = attribution.influence(inputs, target=2)
    expected = shapley_values(matrix, words(inputs["input_ids"]), game, queries=inputs["attention_mask"].bool())
    actual = attribution.attribute(inputs, target=2)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)
    assert actual.shape == inputs["input_ids"].shape
    assert not actual.requires_grad
    assert isinstance(attribution, Attribution)


@pytest.mark.parametrize("game", ["mutual", "max_mutual"])
def test_interactions_are_those_of_the_game_on_the_influence_matrix(game):
    model, inputs = bert(), text_batch()
    attribution = ShapleyGradAttention(model, game=game)
    matrix = attribution.influence(inputs)
    expected = shapley_interactions(matrix, words(inputs["input_ids"]), game)
    torch.testing.assert_close(attribution.interactions(inputs), expected, rtol=1e-5, atol=1e-8)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("method", [ShapleyGradAttention, ShapleyAttention])
@pytest.mark.parametrize("options", [{}, {"game": "incoming"}, {"game": "cls"}])
def test_an_additive_game_has_no_interactions_and_says_so(method, options):
    model = bert()
    with left_untouched(model), pytest.raises(ValueError, match=r"additive.*game='mutual'"):
        method(model, **options).interactions(text_batch(), target=1)


@pytest.mark.parametrize("per", ["layer", "head"])
@pytest.mark.parametrize("game", GAMES)
def test_values_of_layers_and_heads(per, game):
    attribution, inputs = ShapleyGradAttention(bert(), game=game), text_batch()
    each = attribution.attribute_tokens(inputs, per=per).values
    assert each.shape == ((3, 3, 9) if per == "layer" else (3, 3, 4, 9))
    if game != "max_mutual":  # the other games are linear in the influence
        whole = attribution.attribute_tokens(inputs).values
        torch.testing.assert_close(each.flatten(1, -2).mean(1), whole, rtol=1e-5, atol=1e-8)
    last = ShapleyGradAttention(attribution.forward_func, game=game, layers=-1, heads=None).attribute(inputs)
    if per == "layer":
        torch.testing.assert_close(each[:, -1], last, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "deberta_v2", "vit"])
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("explainer", [ShapleyGradAttention, ShapleyAttention])
def test_several_targets_give_what_each_gives_alone(name, game, explainer):
    family = FAMILIES[name]
    attribution, inputs = explainer(family.build(), game=game), batch(family)
    targets = [2, None, [0, 1, 2], torch.tensor([1, 1, 0])]
    together = attribution.attribute_targets(inputs, targets, internal_batch_size=2)
    for result, target in zip(together, targets, strict=True):
        alone = attribution.attribute_tokens(inputs, target=target)
        torch.testing.assert_close(result.values, alone.values, rtol=1e-4, atol=1e-7)
        assert torch.equal(result.targets, alone.targets)
        torch.testing.assert_close(result.scores, alone.scores)


def test_targets_may_be_chosen_by_the_output():
    attribution, inputs = ShapleyGradAttention(bert()), text_batch()
    best, worst = attribution.attribute_targets(inputs, lambda output: output.argsort(-1)[:, [2, 0]])
    assert torch.equal(best.targets, attribution.attribute_tokens(inputs).targets)
    assert torch.equal(worst.targets[:, 0], best.output.argmin(-1))


def test_several_targets_share_a_forward_pass_and_leave_the_model_as_it_was():
    model, inputs, passes = bert(), text_batch(), []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    with left_untouched(model):
        ShapleyGradAttention(model).attribute_targets(inputs, [0, 1, 2])
    handle.remove()
    assert len(passes) == 1
    with left_untouched(model), pytest.raises(IndexError):
        ShapleyGradAttention(model).attribute_targets(inputs, [0, 7])
    with pytest.raises(ValueError, match="no targets"):
        ShapleyGradAttention(model).attribute_targets(inputs, [])


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_ids_embeddings_and_mappings_agree():
    model, inputs = bert(), text_batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embeddings = model.get_input_embeddings()(ids)
    attribution = ShapleyGradAttention(model)
    expected = attribution.attribute(inputs, target=0)
    from_ids = attribution.attribute(ids, target=0, additional_forward_args=mask)
    from_embeddings = attribution.attribute(embeddings, target=0, additional_forward_args=(mask,))
    torch.testing.assert_close(from_ids, expected)
    assert from_embeddings.shape == embeddings.shape
    torch.testing.assert_close(from_embeddings.sum(-1), expected, rtol=1e-4, atol=1e-7)
    assert from_embeddings.std(-1).max() < 1e-9


def test_a_tuple_in_gives_a_tuple_out():
    attribution, ids = ShapleyGradAttention(bert()), text_batch()["input_ids"]
    (from_tuple,) = attribution.attribute((ids,))
    assert torch.equal(from_tuple, attribution.attribute(ids))


def test_a_batch_encoding_is_a_mapping():
    model, inputs = bert(), text_batch()
    encoding = hf.BatchEncoding({**inputs, "special_tokens_mask": (~words(inputs["input_ids"])).long()})
    attribution = ShapleyGradAttention(model)
    assert torch.equal(attribution.attribute(encoding), attribution.attribute(inputs))


def test_additional_arguments_travel_under_the_names_they_are_given():
    model, inputs = bert(), text_batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    players = words(ids)
    players[:, 1] = False
    attribution = ShapleyGradAttention(model, additional_forward_arg_names=("attention_mask", "players"))
    actual = attribution.attribute(ids, additional_forward_args=(mask, players))
    assert torch.equal(actual, ShapleyGradAttention(model).attribute(inputs, players=players))
    assert not actual[~players].any()


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.vision])
def test_images_get_pixel_shape_and_keep_their_sums(name):
    model, inputs = FAMILIES[name].build(), image_batch()
    attribution = ShapleyGradAttention(model)
    tokens = attribution.attribute_tokens(inputs)
    pixels = attribution.attribute(inputs["pixel_values"])
    assert tokens.patches.shape == (3, 3, 3)
    assert tokens.players.sum(-1).tolist() == [9] * 3
    assert pixels.shape == (3, 3, 12, 12)
    torch.testing.assert_close(pixels.unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5)), tokens.patches)
    assert torch.equal(pixels, attribution.attribute(inputs))


@pytest.mark.parametrize(("height", "width"), [(14, 13), (15, 15), (12, 15)])
def test_pixels_that_no_patch_covers_get_zero(height, width):
    attribution, images = ShapleyGradAttention(FAMILIES["dinov2"].build()), torch.rand(1, 3, height, width)
    pixels, patches = attribution.attribute(images), attribution.attribute_tokens(images).patches
    assert not pixels[..., 12:, :].any()
    assert not pixels[..., 12:].any()
    torch.testing.assert_close(pixels[..., :12, :12].unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5)), patches)


def test_a_pointwise_convolution_is_not_taken_for_the_patches():
    class Recoloured(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.colours, self.vit = torch.nn.Conv2d(3, 3, 1), FAMILIES["vit"].build()

        def forward(self, pixels):
            return self.vit(self.colours(pixels)).logits

    result = ShapleyGradAttention(Recoloured().eval()).attribute_tokens(image_batch()["pixel_values"])
    assert result.patches.shape == (3, 3, 3)
    assert not result.players[:, 0].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_in_parts_and_examples_alone_give_the_same(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    attribution = ShapleyGradAttention(model, game="mutual")
    targets = [0, 2, 1]
    whole = attribution.attribute(inputs, target=targets)
    parts = attribution.attribute(inputs, target=targets, internal_batch_size=2)
    single = torch.cat(
        [
            attribution.attribute({key: value[i : i + 1] for key, value in inputs.items()}, target=targets[i])
            for i in range(3)
        ]
    )
    scale = whole.abs().max()
    torch.testing.assert_close(parts / scale, whole / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(single / scale, whole / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "deberta_v2", "gpt2", "llama", "t5"])
def test_padding_does_not_change_the_values(name):
    model, inputs = FAMILIES[name].build(), text_batch()
    attribution = ShapleyGradAttention(model, game="incoming")
    padded = attribution.attribute(inputs, target=1)[1, :6]
    alone = {key: value[1:2, :6] for key, value in inputs.items()}
    scale = padded.abs().max()
    torch.testing.assert_close(attribution.attribute(alone, target=1)[0] / scale, padded / scale, rtol=0, atol=1e-4)


# --- players and readout ----------------------------------------------------------------------------------------------


def played(attribution, inputs, **options):
    return attribution.attribute_tokens(inputs, **options).players


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "gpt2"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_players_without_a_tokenizer_leave_out_special_tokens_and_padding(name, padding):
    family = FAMILIES[name]
    model, inputs = family.build(), text_batch(padding)
    model.config.bos_token_id, model.config.eos_token_id = (None, None) if name == "bert" else (CLS, SEP)
    assert torch.equal(played(ReadoutGame(model), inputs), words(inputs["input_ids"]))


def test_a_tokenizer_without_special_tokens_lets_all_tokens_play():
    tokenizer = Tokenizer()
    tokenizer.special_tokens_map, tokenizer.all_special_ids = {}, []
    ids = torch.tensor([[5, 6, 7, 8]])
    assert played(ReadoutGame(bert(), tokenizer=tokenizer), {"input_ids": ids}).all()


def test_special_ids_of_a_composite_configuration():
    class Composite(hf.BertConfig):
        def get_text_config(self, **_):
            return hf.LlamaConfig(bos_token_id=CLS, eos_token_id=[SEP, 4], pad_token_id=PAD)

    model, ids = bert(), torch.tensor([[CLS, 10, 4, 11, SEP, PAD]])
    model.config.__class__ = Composite
    assert played(ReadoutGame(model), ids).tolist() == [[False, True, False, True, False, False]]


def test_separators_inside_a_pair_do_not_play():
    ids = torch.tensor([[CLS, 10, 11, SEP, 12, 13, SEP]])
    assert played(ReadoutGame(bert()), {"input_ids": ids}).tolist() == [[False, True, True, False, True, True, False]]


def test_the_tokenizer_decides_and_unknown_words_play():
    ids = torch.tensor([[CLS, 7, SEP, 9, SEP]])
    expected = [[False, True, False, True, False]]
    assert played(ReadoutGame(bert(), tokenizer=Tokenizer()), {"input_ids": ids}).tolist() == expected


def test_embeddings_of_an_encoder_leave_out_the_first_and_the_last_token():
    model, inputs = bert(), text_batch()
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    attribution = ReadoutGame(model)
    given = {"inputs_embeds": embeddings, "attention_mask": inputs["attention_mask"]}
    assert torch.equal(played(attribution, given), words(inputs["input_ids"]))


def test_padding_without_a_mask_is_warned_of():
    model, inputs = bert(), text_batch()
    with pytest.warns(UserWarning, match=r"hold padding \(\[1\]\) but there is no attention_mask"):
        ReadoutGame(model).attribute(inputs["input_ids"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReadoutGame(model).attribute(inputs)
        ReadoutGame(model).attribute(inputs["input_ids"][:1])


def test_padding_never_plays_whatever_the_caller_says():
    model, inputs = bert(), text_batch()
    everyone = torch.ones_like(inputs["input_ids"]).bool()
    assert torch.equal(played(ReadoutGame(model), inputs, players=everyone), inputs["attention_mask"].bool())


def readout_of(attribution, inputs, **options):
    """The row of M that the game ``cls`` used, found by comparison."""
    values = attribution.attribute_tokens(inputs, **options).values
    matrix = attribution.influence(inputs, options.get("target"))
    players = attribution.attribute_tokens(inputs, **options).players
    rows = (matrix * players[:, None] - values[:, None]).abs().sum(-1)
    assert rows.min(-1).values.max() < 1e-7
    return rows.argmin(-1).tolist()


def test_encoders_read_the_first_token():
    assert readout_of(ReadoutGame(bert()), text_batch()) == [0, 0, 0]


@pytest.mark.parametrize(("padding", "last"), [("right", [8, 5, 3]), ("left", [8, 8, 8])])
def test_decoders_read_the_last_token_that_is_no_padding(padding, last):
    model = FAMILIES["llama"].build()
    assert readout_of(ReadoutGame(model), text_batch(padding)) == last


def test_the_readout_may_be_chosen():
    assert readout_of(ReadoutGame(bert(), readout=-6), text_batch()) == [3, 3, 3]


LAST = {"right": [8, 5, 3], "left": [8, 8, 8]}
READ = {  # what each model's head reads, by its code in transformers
    **dict.fromkeys(["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "deberta_v2"], "column 0"),
    **dict.fromkeys(["gpt2", "llama", "qwen2", "gemma2"], "last token"),
    **dict.fromkeys(["t5", "bart"], "all tokens"),
    **dict.fromkeys(["vit", "deit"], "column 0"),
    **dict.fromkeys(["dinov2", "dinov2_registers"], "class token and patches"),
    "beit": "patches",
}


def rows_read(name, inputs, padding):
    """bool (B, N): the tokens that the family's head reads."""
    vision = FAMILIES[name].vision
    length = {"deit": 11, "dinov2_registers": 12}.get(name, 10) if vision else 9
    order = torch.arange(length).expand(3, -1)
    if READ[name] == "last token":
        return order == torch.tensor(LAST[padding])[:, None]
    if READ[name] == "all tokens":
        return inputs["attention_mask"].bool()
    if READ[name] == "patches":
        return order >= length - 9
    return (order == 0) | (order >= length - 9) if "patches" in READ[name] else order == 0


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_readout_is_what_the_models_head_reads(name, padding):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family, padding)
    result = ReadoutGame(model, sign="signed").attribute_tokens(inputs)
    matrix = ReadoutGame(model, sign="signed").influence(inputs)
    rows = rows_read(name, inputs, padding)
    expected = (matrix * rows[..., None]).sum(1) / rows.sum(-1, keepdim=True) * result.players
    scale = expected.abs().max()
    torch.testing.assert_close(result.values / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "readout"),
    [("bert", [0, 0, 0]), ("llama", [8, 5, 3]), ("vit", [0, 0, 0])],
)
def test_the_readout_of_attention_alone_goes_by_the_kind_of_model(name, readout):
    family = FAMILIES[name]
    assert readout_of(ReadoutGameOfAttention(family.build()), batch(family)) == readout


@pytest.mark.parametrize("name", ["beit", "t5"])
def test_the_readout_of_attention_alone_is_the_mean_where_the_configuration_says_so(name):
    family = FAMILIES[name]
    model, inputs = family.build(), batch(family)
    automatic = ReadoutGameOfAttention(model).attribute(inputs)
    assert torch.equal(ReadoutGameOfAttention(model, readout="mean").attribute(inputs), automatic)


def test_a_decoder_whose_padding_is_its_end_token_is_read_where_its_head_reads():
    model = FAMILIES["llama"].build()
    model.config.pad_token_id = model.config.eos_token_id = SEP
    ids = torch.tensor([[5, 6, 7, SEP]])
    assert ReadoutGame(model).attribute({"input_ids": ids, "attention_mask": torch.ones(1, 4).long()}).any()


@pytest.mark.parametrize("head", ["tokens", "question"])
def test_token_classification_and_question_answering_read_the_token_of_the_target(head):
    model_class = hf.BertForTokenClassification if head == "tokens" else hf.BertForQuestionAnswering
    torch.manual_seed(0)
    model = model_class(
        hf.BertConfig(
            vocab_size=60,
            pad_token_id=PAD,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
        )
    ).eval()
    inputs = text_batch()
    attribution = ReadoutGame(model)
    assert readout_of(attribution, inputs, target=(2, 1)) == [2, 2, 2]
    targets = [(1, 0), (2, 1), (-1, 1)]
    assert readout_of(attribution, inputs, target=targets) == [1, 2, 3]
    result = attribution.attribute_tokens(inputs, target=targets)
    assert result.targets.tolist() == [[1, 0], [2, 1], [3, 1]]
    output = model(**inputs)
    logits = output.logits if head == "tokens" else torch.stack((output.start_logits, output.end_logits), -1)
    torch.testing.assert_close(result.scores, torch.stack([logits[0, 1, 0], logits[1, 2, 1], logits[2, 3, 1]]).detach())


def test_a_causal_language_model_explains_its_next_token():
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
        )
    ).eval()
    ids = torch.tensor([[1, 5, 6, 7]])
    result = ReadoutGame(model).attribute_tokens(ids, target=(-1, 9))
    assert result.values.shape == (1, 4)
    assert readout_of(ReadoutGame(model), ids, target=(-1, 9)) == [3]


# --- targets ----------------------------------------------------------------------------------------------------------


def test_captums_forms_of_a_target():
    attribution, inputs = ShapleyGradAttention(bert()), text_batch()
    each = torch.stack([attribution.attribute(inputs, target=c) for c in range(3)])
    classes = torch.tensor([2, 0, 1])
    expected = torch.stack([each[c, i] for i, c in enumerate(classes)])
    for target in (classes, classes.tolist(), [(2,), (0,), (1,)], [-1, -3, -2], classes[:, None], classes.numpy()):
        torch.testing.assert_close(attribution.attribute(inputs, target=target), expected)
    for target in (1, torch.tensor(1), torch.tensor([1]), (1,), -2, np.int64(1), [np.int64(1)] * 3):
        torch.testing.assert_close(attribution.attribute(inputs, target=target), each[1])


def test_tokens_are_counted_back_from_the_last_one_that_is_no_padding():
    model, inputs = hf.BertForTokenClassification(FAMILIES["bert"].config()).eval(), text_batch()
    attribution = ShapleyGradAttention(model)
    result = attribution.attribute_tokens(inputs, target=(-1, 2))
    assert result.targets.tolist() == [[8, 2], [5, 2], [3, 2]]
    assert torch.equal(attribution.attribute(inputs, target=result.targets), result.values)
    with pytest.raises(ValueError, match=r"target \(6, 2\) names a token that is padding; the others are 0..5"):
        attribution.attribute(inputs, target=(6, 2))
    with pytest.raises(IndexError, match=r"there are 4 tokens that are no padding"):
        attribution.attribute(inputs, target=(-5, 2))


def test_no_target_is_the_predicted_class():
    model, inputs = bert(), text_batch()
    predicted = model(**inputs).logits.argmax(-1)
    attribution = ShapleyGradAttention(model)
    result = attribution.attribute_tokens(inputs)
    assert result.targets.flatten().tolist() == predicted.tolist()
    assert torch.equal(result.values, attribution.attribute(inputs, target=predicted))


def test_labels_in_a_mapping_do_not_turn_the_output_into_a_loss():
    model, inputs = bert(), text_batch()
    expected = ShapleyGradAttention(model).attribute(inputs)
    model.config.return_dict = False
    assert torch.equal(ShapleyGradAttention(model).attribute({**inputs, "labels": torch.zeros(3).long()}), expected)


def test_attention_alone_needs_no_head():
    model, inputs = bert(), text_batch()
    expected = ShapleyAttention(model, game="mutual").attribute(inputs)
    result = ShapleyAttention(model.bert, game="mutual").attribute_tokens(inputs)
    torch.testing.assert_close(result.values, expected)
    assert result.scores.numel() == 0


def test_question_answering_of_an_encoder_decoder_reads_all_of_the_encoder():
    torch.manual_seed(0)
    model = hf.BartForQuestionAnswering(FAMILIES["bart"].config()).eval()
    inputs = text_batch()
    result = ReadoutGame(model).attribute_tokens(inputs, target=(2, 0))
    mean = ReadoutGame(model, readout="mean").attribute_tokens(inputs, target=(2, 0))
    torch.testing.assert_close(result.values, mean.values)
    assert result.values.any()


def test_a_plain_function_and_an_output_of_one_score():
    model = PlainClassifier().eval()
    embeddings = torch.randn(2, 5, 16)
    scores = ShapleyGradAttention(lambda x: model(x)[:, 1]).attribute(embeddings)
    torch.testing.assert_close(scores, ShapleyGradAttention(model).attribute(embeddings, target=1))


# --- sampled games ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("estimator", [permutation_shapley, partial(kernel_shapley, coalitions=400)])
def test_sampled_values_agree_with_exact_ones_within_their_standard_error(game, estimator):
    model, inputs = bert(), text_batch()
    exact = ShapleyGradAttention(model, game=game).attribute_tokens(inputs)
    sampled = ShapleyGradAttention(model, game=game, estimator=estimator).attribute_tokens(inputs)
    difference = (sampled.values - exact.values).abs()
    assert (difference <= 4 * sampled.standard_error + 1e-6 * exact.values.abs().max()).all()
    assert (sampled.values[~sampled.players] == 0).all()


def test_a_game_of_ones_own():
    def pairs(influence, coalitions):
        members = coalitions.to(influence)
        return ((members @ influence) * members).sum(-1)

    model, inputs = bert(), text_batch()
    attribution = ShapleyGradAttention(model, game=pairs)
    result = attribution.attribute_tokens(inputs)
    matrix = attribution.influence(inputs)
    total = torch.stack([m[p][:, p].sum() for m, p in zip(matrix, result.players, strict=True)])
    torch.testing.assert_close(result.values.sum(-1), total)
    with pytest.raises(ValueError, match="exact interactions exist for the games"):
        attribution.interactions(inputs)


@pytest.mark.parametrize(
    ("name", "game"), [("bert", "incoming"), ("gpt2", "cls"), ("llama", "cls"), ("t5", "incoming")]
)
@pytest.mark.parametrize("explainer", [ShapleyGradAttention, ShapleyAttention])
def test_where_attention_is_causal_the_readouts_row_counts(explainer, name, game):
    model, inputs = FAMILIES[name].build(), batch(FAMILIES[name])
    found, expected = (explainer(model, game=one).attribute_tokens(inputs).values for one in ("auto", game))
    assert torch.equal(found, expected)
    assert found.any()
    with pytest.raises(ValueError, match="the game 'auto' is additive"):
        explainer(model, game="auto").interactions(inputs)


@pytest.mark.parametrize("game", GAMES)
def test_values_sum_to_the_worth_of_all_players(game):
    model, inputs = bert(), text_batch()
    attribution = ShapleyGradAttention(model, game=game, sign="signed")
    result, matrix = attribution.attribute_tokens(inputs), attribution.influence(inputs)
    for example in range(3):
        worth = coalition_values(
            matrix[example],
            result.players[example : example + 1],
            game,
            queries=inputs["attention_mask"][example].bool(),
        )
        torch.testing.assert_close(result.values[example].sum(), worth[0], rtol=1e-4, atol=1e-7)


# --- Captum's wrappers ------------------------------------------------------------------------------------------------


def test_noise_tunnel_on_embeddings():
    model, inputs = bert(), text_batch()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    attribution, mask = ShapleyGradAttention(model), inputs["attention_mask"]
    quiet = NoiseTunnel(attribution).attribute(
        embeddings, nt_samples=3, stdevs=1e-7, target=1, additional_forward_args=mask
    )
    expected = attribution.attribute(embeddings, target=1, additional_forward_args=mask)
    torch.testing.assert_close(quiet, expected, rtol=1e-3, atol=1e-6)
    options = {"nt_type": "vargrad", "nt_samples": 4, "nt_samples_batch_size": 2, "stdevs": 0.1}
    loud = NoiseTunnel(attribution).attribute(
        (embeddings,), target=[0, 1, 2], additional_forward_args=(mask,), **options
    )
    assert loud[0].shape == embeddings.shape
    assert loud[0].abs().sum() > 0


def test_noise_tunnel_infidelity_and_sensitivity_on_pixels():
    model, pixels = FAMILIES["vit"].build(), image_batch()["pixel_values"]
    attribution = ShapleyGradAttention(model)

    def perturb(images):
        noise = 0.01 * torch.randn_like(images)
        return noise, images - noise

    with left_untouched(model), torch.random.fork_rng():
        smooth = NoiseTunnel(attribution).attribute(pixels, nt_samples=2, stdevs=0.01, target=0)
        wrong = infidelity(lambda x: model(x).logits, perturb, pixels, smooth, target=0)
        change = sensitivity_max(attribution.attribute, pixels, perturb_radius=0.01, n_perturb_samples=2, target=0)
    assert smooth.shape == pixels.shape
    assert wrong.shape == change.shape == (3,)
    assert (change > 0).all()


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda attribution, ids: NoiseTunnel(attribution).attribute(ids, nt_samples=2),
        lambda attribution, ids: sensitivity_max(attribution.attribute, ids.float()),
    ],
    ids=["NoiseTunnel", "sensitivity_max"],
)
def test_noisy_ids_are_refused_with_the_remedy(wrapper):
    model = bert()
    attribution, ids = ShapleyGradAttention(model), text_batch()["input_ids"]
    with pytest.raises(TypeError, match=r"integer token ids.*get_input_embeddings"):
        wrapper(attribution, ids)


def test_a_pipeline_is_refused_with_the_remedy():
    class Pipeline:
        tokenizer = None

        def __call__(self):
            """Of no use here."""

    with pytest.raises(TypeError, match=r"of a pipeline, give pipeline\.model"):
        ShapleyGradAttention(Pipeline())


def test_an_explainer_pickles():
    model, inputs = bert(), text_batch()
    attribution = ShapleyGradAttention(model, game="mutual", layers=[-1], tokenizer=Tokenizer())
    again = pickle.loads(pickle.dumps(attribution))
    assert torch.equal(again.attribute(inputs), attribution.attribute(inputs))


def test_a_part_is_freed_before_the_next_one_runs():
    model, inputs = bert(), text_batch()
    alive, runs = [], []

    class Watched(ShapleyGradAttention):
        def _exact(self, explained, influence):
            alive.append(sum(run() is not None for run in runs))
            runs.append(weakref.ref(explained.run))
            return super()._exact(explained, influence)

    gc.disable()  # the memory must not wait for the garbage collector
    try:
        Watched(model).attribute(inputs, internal_batch_size=1)
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_a_progress_bar_on_request(capsys):
    attribution = ShapleyGradAttention(bert())
    attribution.attribute(text_batch(), internal_batch_size=1, show_progress=True)
    assert "ShapleyGradAttention: 100%" in capsys.readouterr().err
    attribution.attribute(text_batch(), internal_batch_size=1)
    assert capsys.readouterr().err == ""


# --- bad input --------------------------------------------------------------------------------------------------------

IDS = text_batch()["input_ids"]
MASK = text_batch()["attention_mask"]
SHORT = {"input_ids": IDS, "attention_mask": MASK[:, :8]}

BAD_INPUTS = {
    "empty batch": (ValueError, r"empty batch: torch.int64 of shape \(0, 9\)", (IDS[:0],), {}),
    "empty sequence": (ValueError, r"empty batch: .* \(3, 0\)", (IDS[:, :0],), {}),
    "no players": (ValueError, r"examples \[0\] have no players", (torch.tensor([[CLS, SEP]]),), {}),
    "bool ids": (TypeError, "got torch.bool", (IDS.bool(),), {}),
    "float ids": (TypeError, "got torch.float32 of shape", (IDS.float(),), {}),
    "a list": (TypeError, r"got list; tokenize text first, with return_tensors='pt'", ([[1, 2]],), {}),
    "a mapping of lists": (TypeError, "got list; tokenize text first", ({"input_ids": [[1, 2]]},), {}),
    "a mapping without features": (ValueError, r"got the keys \['ids'\]", ({"ids": IDS},), {}),
    "two inputs": (ValueError, "got a tuple of 2", ((IDS, MASK),), {}),
    "both ways": (ValueError, "into the mapping", ({"input_ids": IDS},), {"additional_forward_args": MASK}),
    "target too large": (IndexError, r"target 3 is out of range .* expected -3..2", (IDS,), {"target": 3}),
    "targets too small": (IndexError, "target -4 is out of range", (IDS,), {"target": [0, -4, 1]}),
    "too few targets": (ValueError, "2 targets for a batch of 3", (IDS,), {"target": [0, 1]}),
    "float target": (TypeError, "must hold integers", (IDS,), {"target": torch.tensor([0.5])}),
    "unknown name": (ValueError, "'positive' is no class.*'LABEL_0'", (IDS,), {"target": "positive"}),
    "no target at all": (TypeError, "the name of a class, .* got {'class': 1}", (IDS,), {"target": {"class": 1}}),
    "deep target": (ValueError, "expected a class", (IDS,), {"target": (0, 1)}),
    "short mask": (ValueError, r"attention_mask .* \(3, 9\), got \(3, 8\)", (SHORT,), {}),
    "soft players": (TypeError, "bool or integer tensor .* got torch.float32", (IDS,), {"players": torch.rand(3, 9)}),
    "listed players": (TypeError, "bool or integer tensor .* got list", (IDS,), {"players": [[1] * 9] * 3}),
    "nameless arguments": (ValueError, "4 additional .* but 3 names", (IDS,), {"additional_forward_args": (MASK,) * 4}),
    "short players": (ValueError, r"players .* \(3, 9\), got \(3, 8\)", (IDS,), {"players": MASK[:, :8].bool()}),
    "no examples at a time": (ValueError, "at least 1, got 0", (IDS,), {"internal_batch_size": 0}),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_INPUTS)
def test_bad_input_says_what_was_given_and_expected(what):
    error, message, arguments, options = BAD_INPUTS[what]
    model = bert().train()
    with left_untouched(model), pytest.raises(error, match=message):
        ShapleyGradAttention(model).attribute(*arguments, **options)


BAD_OPTIONS = {
    "not a tokenizer": (TypeError, "must be a Hugging Face tokenizer, got str", {"tokenizer": "bert"}),
    "not an estimator": (TypeError, "such as permutation_shapley, got 'kernel'", {"estimator": "kernel"}),
    "not layers": (TypeError, "layers must be an index, a sequence .* got 'all'", {"layers": "all"}),
    "unknown game": (ValueError, r"unknown game 'owen': expected one of 'auto', 'cls'", {"game": "owen"}),
    "unknown sign": (ValueError, "'rectified' or 'signed', got 'both'", {"sign": "both"}),
    "unknown readout": (ValueError, "got 'first'", {"readout": "first"}),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_bad_options_are_refused_at_once(what):
    error, message, options = BAD_OPTIONS[what]
    with pytest.raises(error, match=message):
        ShapleyGradAttention(bert(), **options)


def test_options_that_only_the_model_can_refuse():
    model = bert()
    with pytest.raises(ValueError, match=r"readout=9 is out of range for 9 tokens"):
        ShapleyGradAttention(model, readout=9).attribute(IDS)
    with pytest.raises(IndexError, match=r"layers \[7\] out of range: the model has 3"):
        ShapleyGradAttention(model, layers=7).attribute(IDS)
    with pytest.raises(ValueError, match="per must be"):
        ShapleyGradAttention(model).attribute_tokens(IDS, per="token")
    with pytest.raises(ValueError, match="needs an exact game"):
        ShapleyGradAttention(model, estimator=permutation_shapley).attribute_tokens(IDS, per="layer")


def test_an_output_that_is_not_finite_is_refused():
    model = bert()
    with torch.no_grad():
        model.classifier.bias[1] = float("nan")
    with left_untouched(model), pytest.raises(ValueError, match=r"not finite .* examples \[0, 1, 2\]"):
        ShapleyGradAttention(model).attribute(IDS, target=1)


def test_a_tokens_output_needs_a_target():
    model = hf.BertForTokenClassification(FAMILIES["bert"].config()).eval()
    with pytest.raises(ValueError, match=r"tuple \(token, class\)"):
        ShapleyGradAttention(model).attribute(IDS)


def test_patches_of_a_text_are_refused():
    with pytest.raises(ValueError, match="no images"):
        _ = ShapleyGradAttention(bert()).attribute_tokens(IDS).patches


class Pixels(torch.nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.classifier, self.tokens = PlainClassifier(), tokens

    def forward(self, pixels):
        return self.classifier(self.tokens(pixels))


def test_tokens_may_be_pixels():
    model = Pixels(lambda pixels: pixels.flatten(2).mT.expand(-1, -1, 16)).eval()
    result = ShapleyGradAttention(model).attribute_tokens(torch.rand(1, 1, 3, 4))
    assert torch.equal(result.patches.flatten(1), result.values)


def test_an_image_model_without_patches_is_refused():
    model = Pixels(lambda pixels: torch.nn.functional.unfold(pixels, 4, stride=2).mT).eval()
    with pytest.raises(ValueError, match="no patch embedding"):
        ShapleyGradAttention(model).attribute(torch.rand(1, 1, 8, 8))
