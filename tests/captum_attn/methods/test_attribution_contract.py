"""What a Captum user may expect of every explanation alike: forms of inputs, players, errors, an untouched model."""

from __future__ import annotations

import pickle
import re
import warnings

import pytest
import torch
from captum.attr import Attribution, NoiseTunnel, Saliency
from cut_images import Cutting, pictures
from families import CLS, FAMILIES, PAD, SEP, batch, image_batch, text_batch
from models import left_untouched

import captum_attn
from captum_attn import AttentionAttribution, MaskTunnel, ShapleyGradAttention

NAMES = (
    "RawAttention",
    "GradSAM",
    "AttentionRollout",
    "AttentionFlow",
    "GenericRelevance",
    "GradientAttentionRollout",
    "NormAttention",
    "GeneralizedAttentionFlow",
    "IntegratedAttention",
    "AttnLRP",
    "IntegratedAttnLRP",
)
METHODS = [getattr(captum_attn, name) for name in NAMES]
ONE_STACK = ("AttentionRollout", "AttentionFlow", "GenericRelevance", "GradientAttentionRollout")

every_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def bert():
    return FAMILIES["bert"].build()


def words(ids):
    return ~torch.isin(ids, torch.tensor([PAD, CLS, SEP]))


@pytest.mark.parametrize("method", [*METHODS, captum_attn.ShapleyGradAttention, MaskTunnel])
def test_futures_are_refused_as_captum_does_it(method):
    attribution = MaskTunnel(captum_attn.GradSAM(bert())) if method is MaskTunnel else method(bert())
    named = f"attribute_future is not implemented for {method.__name__}"
    for arguments in ((), (text_batch(),)):
        with pytest.raises(NotImplementedError, match=named):
            attribution.attribute_future(*arguments)
    with pytest.raises(NotImplementedError, match="attribute_future is not implemented for Saliency"):
        Saliency(bert()).attribute_future()


@every_method
def test_forms_of_inputs_agree(method):
    model, inputs = bert(), text_batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    attribution = method(model)
    assert isinstance(attribution, Attribution)
    assert isinstance(attribution, AttentionAttribution)
    expected = attribution.attribute(inputs, target=0)
    assert expected.shape == ids.shape
    assert expected.abs().max() > 0
    assert not expected.requires_grad
    assert not expected[~words(ids)].any()
    scale = expected.abs().max()
    (from_tuple,) = attribution.attribute((ids,), target=0, additional_forward_args=(mask,))
    embeddings = model.get_input_embeddings()(ids).detach()
    from_embeddings = attribution.attribute(embeddings, target=0, additional_forward_args=(mask,))
    assert from_embeddings.shape == embeddings.shape
    for other in (from_tuple, from_embeddings.sum(-1), attribution.attribute(inputs, [0, 0, 0], None, 1)):
        torch.testing.assert_close(other / scale, expected / scale, rtol=0, atol=2e-3)


@every_method
def test_padding_changes_nothing(method):
    model, inputs = bert(), text_batch()
    whole = method(model).attribute(inputs, target=1)
    scale = whole.abs().max()
    for row, length in enumerate((9, 6, 4)):
        alone = {name: part[row : row + 1, :length] for name, part in inputs.items()}
        found = method(model).attribute(alone, target=1)
        torch.testing.assert_close(found[0] / scale, whole[row, :length] / scale, rtol=0, atol=2e-3)


@every_method
def test_images_get_pixel_shape_and_patches(method):
    model, images = FAMILIES["vit"].build(), image_batch()["pixel_values"]
    attribution = method(model)
    tokens = attribution.attribute_tokens(images)
    pixels = attribution.attribute(images)
    assert tokens.patches.shape == (3, 3, 3)
    assert pixels.shape == images.shape
    torch.testing.assert_close(pixels.unfold(2, 4, 4).unfold(3, 4, 4).sum((1, 4, 5)), tokens.patches)
    assert not tokens.values[:, 0].any()


@every_method
@pytest.mark.parametrize("name", ["gpt2", "llama", "modernbert", "deberta_v2", "gemma2"])
def test_decoders_and_eager_models_are_explained(method, name):
    family = FAMILIES[name]
    values = method(family.build()).attribute(batch(family))
    assert values.isfinite().all()
    assert values.abs().max() > 0


@every_method
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_are_explained_or_refused(method, name):
    family = FAMILIES[name]
    attribution = method(family.build())
    if method.__name__ in (*ONE_STACK, "GeneralizedAttentionFlow"):
        with pytest.raises(ValueError, match=r"one stack of layers.*another stack of this"):
            attribution.attribute(batch(family))
    else:
        assert attribution.attribute(batch(family)).isfinite().all()


@every_method
def test_targets_matter_where_gradients_do(method):
    model, inputs = bert(), text_batch()
    attribution = method(model)
    first, second = attribution.attribute_targets(inputs, [0, [1, 2, 1]])
    assert first.targets.flatten().tolist() == [0, 0, 0]
    assert second.targets.flatten().tolist() == [1, 2, 1]
    assert torch.equal(second.scores, second.output[torch.arange(3), torch.tensor([1, 2, 1])])
    assert torch.equal(first.values, second.values) != attribution.needs_gradients
    chosen = attribution.attribute_targets(inputs, lambda output: output.argsort(-1)[:, -1:])[0]
    assert torch.equal(chosen.targets, attribution.attribute_tokens(inputs).targets)


@every_method
def test_models_without_a_head_have_attention_to_show(method):
    attribution = method(bert().bert)
    if attribution.needs_gradients:
        with pytest.raises(TypeError, match="hidden states, so an index of a class would be taken"):
            attribution.attribute(text_batch(), target=(0, 3))
    else:
        assert attribution.attribute(text_batch()).abs().max() > 0


@every_method
def test_the_model_is_left_as_it_was(method):
    model, inputs = bert().train(), text_batch()
    with left_untouched(model):
        expected = method(model).attribute(inputs, target=2)
    with left_untouched(model), torch.no_grad():
        assert torch.equal(method(model).attribute(inputs, target=2), expected)
    with left_untouched(model), torch.inference_mode():
        assert torch.equal(method(model).attribute(inputs, target=2), expected)
    with left_untouched(model), pytest.raises(IndexError, match="target 9 is out of range"):
        method(model).attribute(inputs, target=9)
    pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("method", [method for method in METHODS if "LRP" not in method.__name__])
def test_layers_heads_and_readouts_that_are_not_there_are_named(method):
    model, inputs = bert(), text_batch()
    with left_untouched(model), pytest.raises(IndexError, match=r"layers \[7\] out of range"):
        method(model, layers=7).attribute(inputs, target=0)
    with left_untouched(model), pytest.raises(IndexError, match=r"heads \[4\] out of range"):
        method(model, heads=4).attribute(inputs)
    with pytest.raises(ValueError, match="readout must be"):
        method(model, readout="last")


@every_method
def test_bad_input_is_named(method):
    model, inputs = bert(), text_batch()
    ids, attribution = inputs["input_ids"], method(bert())
    with pytest.raises(TypeError, match="they must be integers"):
        attribution.attribute(ids.float())
    with pytest.raises(TypeError, match="tokenize text first"):
        attribution.attribute("not good")
    with pytest.raises(ValueError, match="a tuple of 2"):
        attribution.attribute((ids, ids))
    with pytest.raises(ValueError, match="empty batch"):
        attribution.attribute(ids[:0])
    with pytest.raises(IndexError, match="target 3 is out of range"):
        attribution.attribute(inputs, target=3)
    with pytest.raises(ValueError, match="2 targets for a batch of 3"):
        attribution.attribute(inputs, target=[0, 1])
    with pytest.raises(ValueError, match="have no players"):
        attribution.attribute(inputs, players=torch.zeros(3, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="internal_batch_size must be at least 1"):
        attribution.attribute(inputs, internal_batch_size=0)
    with pytest.raises(TypeError, match="model must be a module or a function"):
        method("bert")
    with pytest.raises(TypeError, match="must be a Hugging Face tokenizer"):
        method(model, tokenizer=3)


@every_method
def test_weights_that_overflow_are_named(method):
    model = bert()
    with torch.no_grad():
        model.classifier.weight[1, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        method(model).attribute(text_batch(), target=1)


@every_method
def test_noise_tunnel_takes_every_method(method):
    model, inputs = bert(), text_batch()
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    smooth = NoiseTunnel(method(model)).attribute(
        embeddings, nt_samples=2, stdevs=0.0, target=1, additional_forward_args=(inputs["attention_mask"],)
    )
    expected = method(model).attribute(embeddings, target=1, additional_forward_args=(inputs["attention_mask"],))
    scale = expected.abs().max()
    torch.testing.assert_close(smooth / scale, expected / scale, rtol=0, atol=2e-3)


@every_method
def test_mask_tunnel_takes_every_method(method):
    values = MaskTunnel(method(bert()), replacement=4).attribute(text_batch(), target=1)
    assert values.isfinite().all()
    assert values.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RawAttention", {"rows": "columns"}, "rows must be 'readout' or 'incoming', got 'columns'"),
        ("GenericRelevance", {"rows": 0}, "rows must be"),
        ("IntegratedAttention", {"rows": None}, "rows must be"),
        ("AttentionRollout", {"residual": 1.0}, "residual must be a share"),
        ("AttentionFlow", {"residual": "half"}, "residual must be a share"),
        ("NormAttention", {"residual": 0.5}, "residual must be True or False"),
        ("GeneralizedAttentionFlow", {"information": "AGF"}, "information must be one of 'attention', 'gradient'"),
        ("GeneralizedAttentionFlow", {"tolerance": 0}, "tolerance must lie between 0 and 1"),
        ("IntegratedAttention", {"n_steps": 0}, "n_steps must be a number of at least 1"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(captum_attn, name)(bert(), **arguments)


def test_a_decoders_last_token_does_not_win_for_being_read():
    model, inputs = FAMILIES["gpt2"].build(), text_batch()
    for method in (captum_attn.GenericRelevance, captum_attn.GradientAttentionRollout):
        assert repr(method(model)) == f"{method.__name__}(GPT2ForSequenceClassification)"
        everyone = inputs["attention_mask"].bool()
        result = method(model).attribute_tokens(inputs, target=1, players=everyone)
        last = everyone.long().cumsum(-1).argmax(-1, keepdim=True)
        assert (result.values.gather(1, last) < 0.5).all()
        assert result.values.max() > 0


@pytest.mark.parametrize("others", [[0], [17, 19], [0, 18]])
def test_players_that_are_no_patches_are_in_no_pixel_and_said_so(others):
    model, pixels = Cutting(others=(1, 3)).eval(), pictures()
    players = torch.zeros(2, 20, dtype=torch.bool)
    players[:, 1:17] = True
    attribution = ShapleyGradAttention(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patches = attribution.attribute(pixels, target=1, players=players)
    players[1, others] = True
    with pytest.warns(UserWarning, match=re.escape(f"the tokens {others} play, but are no patches")) as found:
        attributed = attribution.attribute(pixels, target=1, players=players)
    assert found[0].filename == __file__
    torch.testing.assert_close(attributed, patches)
