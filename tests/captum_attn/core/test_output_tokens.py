"""Targets name the tokens that the output has rows for: a decoder's own, or the input's."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from families import CLS, FAMILIES, PAD, SEP, text_batch
from models import left_untouched
from nested_configs import nested_configs
from torch import nn

from captum_attn import RawAttention, ShapleyGradAttention
from captum_attn.core import mapping_inputs, observed_forward
from captum_attn.core.inputs import ModelInputs
from captum_attn.core.output_tokens import decoder_tokens

WRITERS = {"bart": hf.BartForConditionalGeneration, "t5": hf.T5ForConditionalGeneration}
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])


def writer(name):
    torch.manual_seed(0)
    config = FAMILIES[name].config()
    config.decoder_start_token_id = PAD  # T5's and Marian's decoders start with the padding token
    model = WRITERS[name]._from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


def written(length=4, padding=False):
    ids = torch.randint(5, 58, (3, length), generator=torch.Generator().manual_seed(4))
    ids[:, 0] = PAD
    return ids.masked_fill(MASK == 0, PAD) if padding else ids


def check(model, batch, target, positions):
    result = ShapleyGradAttention(model).attribute_tokens(batch, target=target)
    expected = model(**batch).logits[range(3), positions, target[1]]
    assert result.targets.tolist() == [[position, target[1]] for position in positions]
    torch.testing.assert_close(result.scores, expected.detach())
    return result


@pytest.mark.parametrize("length", [4, 9, 12])  # shorter than the source's 9 tokens, as long, longer
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", WRITERS)
def test_positions_are_the_decoders_whatever_the_source(name, padding, length):
    batch = {**text_batch(padding), "decoder_input_ids": written(length)}
    for target in (-1, length - 1):
        check(writer(name), batch, (target, 7), [length - 1] * 3)


@pytest.mark.parametrize("name", WRITERS)
def test_the_decoders_padding_is_told_by_its_mask_or_its_ids(name):
    model, ends = writer(name), [3, 1, 2]
    masked = {**text_batch(), "decoder_input_ids": written(), "decoder_attention_mask": MASK}
    by_mask = check(model, masked, (-1, 7), ends)
    by_id = check(model, {**text_batch(), "decoder_input_ids": written(padding=True)}, (-1, 7), ends)
    assert by_mask.values.shape == by_id.values.shape == (3, 9)
    embeddings = {"decoder_inputs_embeds": model.get_decoder().get_input_embeddings()(written()).detach()}
    check(model, {**text_batch(), **embeddings}, (-1, 7), [3, 3, 3])
    check(model, {**text_batch(), **embeddings, "decoder_attention_mask": MASK}, (-1, 7), ends)
    with pytest.raises(ValueError, match=r"target \(2, 7\) names a token that is padding; the others are 0..1"):
        check(model, masked, (2, 7), ends)
    with pytest.raises(IndexError, match="there are 2 tokens that are no padding"):
        check(model, masked, (-3, 7), ends)


def test_the_first_token_may_be_the_padding_token():
    check(writer("t5"), {**text_batch(), "decoder_input_ids": written(1)}, (-1, 7), [0, 0, 0])


SQUARE = MASK[:, None, None].bool() & torch.ones(4, 4).tril().bool()


@pytest.mark.parametrize(
    "mask", [SQUARE, torch.zeros(3, 1, 4, 4).masked_fill(~SQUARE, -1e9), MASK[:, None, None].bool()]
)
def test_a_decoders_mask_of_four_dimensions_is_read(mask):
    inputs = ModelInputs(written(), "input_ids", {"decoder_input_ids": written(), "decoder_attention_mask": mask})
    assert torch.equal(decoder_tokens(inputs, None), MASK.bool())


@pytest.mark.parametrize("mask", [MASK[:, :3], MASK[:2], MASK[..., None], torch.rand(3, 4) + 0.1])
def test_a_decoders_mask_that_does_not_fit_is_refused(mask):
    keywords = {"decoder_input_ids": written(), "decoder_attention_mask": mask}
    with pytest.raises(ValueError, match=r"decoder_attention_mask of shape .* expected .* of shape \(3, 4\)"):
        decoder_tokens(ModelInputs(written(), "input_ids", keywords), None)
    beside_pixels = {"input_ids": written(), "attention_mask": mask}
    with pytest.raises(ValueError, match=r"what attention_mask of shape .* cannot be told"):
        decoder_tokens(ModelInputs(torch.randn(3, 3, 8, 8), "pixel_values", beside_pixels), None)


def test_padding_of_a_nested_configuration():
    ids = written(padding=True)
    for config in nested_configs(pad_token_id=PAD, eos_token_id=SEP):
        beside_pixels = ModelInputs(torch.randn(3, 3, 8, 8), "pixel_values", {"input_ids": ids})
        assert torch.equal(decoder_tokens(beside_pixels, config), MASK.bool())


def test_a_padding_token_that_ends_texts_is_not_taken_for_padding():
    model = writer("bart")
    model.config.eos_token_id = PAD
    check(model, {**text_batch(), "decoder_input_ids": written(padding=True)}, (-1, 7), [3, 3, 3])


def test_images_with_as_many_tokens_as_the_decoder_has():
    encoder, decoder = FAMILIES["vit"].config(), FAMILIES["bert"].config()
    model = hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    ).eval()
    ids = written(10).index_fill(1, torch.tensor([0]), CLS)
    ids[1, 4:] = PAD
    batch = {"pixel_values": torch.randn(3, 3, 12, 12), "decoder_input_ids": ids}
    check(model, batch, (-1, 7), [9, 3, 9])


def test_models_that_shift_the_input_themselves_count_its_tokens():
    torch.manual_seed(0)
    model = hf.BartForQuestionAnswering(FAMILIES["bart"].config()).eval()
    result = ShapleyGradAttention(model).attribute_tokens(text_batch(), target=(-1, 0))
    assert result.targets.tolist() == [[8, 0], [5, 0], [3, 0]]
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        assert torch.equal(run.output_tokens.real, text_batch()["attention_mask"].bool())
        assert not run.output_tokens.of_the_input


def test_the_tokens_of_one_stack_are_the_inputs():
    model = hf.BertForTokenClassification(FAMILIES["bert"].config()).eval()
    with observed_forward(model, mapping_inputs(model, text_batch())) as run:
        assert run.output_tokens.of_the_input
    classifier = FAMILIES["bert"].build()
    with observed_forward(classifier, mapping_inputs(classifier, text_batch())) as run:
        assert run.output_tokens is None


@pytest.mark.parametrize("method", [ShapleyGradAttention, RawAttention])
def test_a_decoder_of_unknown_tokens_is_counted_from_the_front(method):
    model = writer("bart")
    same = method(lambda **source: model(**source, decoder_input_ids=written(9)).logits)
    with pytest.raises(ValueError, match="comes from none of the inputs that were given"):  # as long as the source
        same.attribute(text_batch(), target=(8, 7))
    explainer = method(lambda **source: model(**source, decoder_input_ids=written(10)).logits)
    result = explainer.attribute_tokens(text_batch(), target=(8, 7))  # padding in the source
    expected = model(**text_batch(), decoder_input_ids=written(10)).logits[:, 8, 7]
    torch.testing.assert_close(result.scores, expected.detach())
    with left_untouched(model), pytest.raises(ValueError, match=r"target \(-1, 7\).*decoder.*count from the front"):
        explainer.attribute(text_batch(), target=(-1, 7))


def test_labels_that_the_decoder_would_read_are_refused():
    model, labels = writer("bart"), written(4)
    with pytest.raises(ValueError, match=r"labels do not go to the model.*decoder_input_ids=model\.prepare_decoder"):
        ShapleyGradAttention(model).attribute({**text_batch(), "labels": labels}, target=(-1, 7))
    ids = model.prepare_decoder_input_ids_from_labels(labels)
    check(model, {**text_batch(), "decoder_input_ids": ids}, (3, 7), [3, 3, 3])
    assert SEP not in ids
