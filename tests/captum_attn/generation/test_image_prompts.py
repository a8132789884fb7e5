"""Answers to prompts with images among their words."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from chat_models import chat_model
from models import left_untouched
from readers_of_images import gemma3, llava, photograph

from captum_attn import GenerationAttention, RawAttention, ShapleyGradAttention
from captum_attn.generation import ResponseClassifier, ScoredResponse, leave_one_out, response_inputs
from captum_attn.metrics import evaluate

QUESTION = "the cat is old . the dog is young . how old is the cat ?"
MODELS = {"llava": (llava, "<image> "), "gemma-3": (gemma3, "<boi> ")}


def given(processor, text, image, **options):
    return processor(text=[text], images=[image], return_tensors="pt", **options)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("response", ["it is old", "old"])
def test_values_are_those_of_the_whole_sequence_with_its_image(name, response):
    build, place = MODELS[name]
    model, processor = build()
    explainer = GenerationAttention(model, processor)
    model(**given(processor, place + QUESTION, photograph()))  # at first, transformers puts hooks of its own on towers
    with left_untouched(model):
        found = explainer.explain(place + QUESTION, response, images=photograph())
    count = len(found.response_ids)
    inputs = given(processor, place + QUESTION, photograph())
    ids = torch.tensor([[*found.prompt.ids, *found.response_ids]])
    assert ids[0, : len(found.prompt.ids)].tolist() == inputs["input_ids"][0, : len(found.prompt.ids)].tolist()
    types = torch.zeros_like(ids)
    types[:, : len(found.prompt.ids)] = inputs["token_type_ids"][:, : len(found.prompt.ids)]
    beside = {"pixel_values": inputs["pixel_values"]} | ({"token_type_ids": types} if name == "gemma-3" else {})
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **beside).logits
    expected = logits[0, -count - 1 : -1].log_softmax(-1).gather(-1, ids[0, -count:, None]).squeeze(-1).exp()
    torch.testing.assert_close(found.probabilities, expected, rtol=1e-4, atol=1e-7)
    scored = ShapleyGradAttention(ScoredResponse(model, count), propagation="attnlrp")
    mapping = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "players": torch.ones_like(ids), **beside}
    influence = scored.influence(mapping, target=0)[0]
    torch.testing.assert_close(found.values, influence[-count - 1 : -1].sum(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_a_source_and_its_tokens_lie_in_it(name):
    build, place = MODELS[name]
    model, processor = build()
    found = GenerationAttention(model, processor).explain(place + QUESTION, "it is old", images=photograph())
    side = 4 if name == "llava" else 2
    assert [source.text for source in found.sources] == ["image", "the cat is old .", "the dog is young ."]
    patches = [number for number, token in enumerate(found.tokens) if token == "▪"]
    assert len(patches) == side * side
    assert found.picture.counts == (side, side)
    assert torch.equal(found.patches.flatten(), found.values[patches])
    in_image = found.values[found.groups == 0].sum()
    torch.testing.assert_close(found.source_values[0], in_image)
    assert found.prompt.text.count("▪") == side * side
    assert found.page().count("▪") >= side * side


def test_another_image_is_another_answer():
    model, processor = llava()
    explainer = GenerationAttention(model, processor)
    values = [explainer.explain("<image> " + QUESTION, "old", images=photograph(seed)).values for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.allclose(values[0], values[2], rtol=1e-2)


def test_the_model_writes_what_it_writes_by_itself():
    model, processor = llava()
    found = GenerationAttention(model, processor).explain("<image> " + QUESTION, images=photograph(), max_new_tokens=4)
    inputs = given(processor, "<image> " + QUESTION, photograph())
    kept = {"input_ids": torch.tensor([found.prompt.ids]), "pixel_values": inputs["pixel_values"]}
    own = model.generate(**kept, attention_mask=torch.ones_like(kept["input_ids"]), max_new_tokens=4)
    assert own[0, len(found.prompt.ids) :].tolist()[: len(found.response_ids)] == list(found.response_ids)


def test_messages_have_parts_and_several_images():
    model, processor = llava()
    parts = [{"type": "image"}, {"type": "text", "text": "the cat is old ."}, {"type": "image"}]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "how old is it ?"}]}]
    explainer = GenerationAttention(model, processor)
    found = explainer.explain(messages, "old", images=[photograph(0), photograph(1)])
    assert [source.text for source in found.sources] == ["image 1", "the cat is old .", "image 2"]
    assert found.prompt.text.startswith("user : ▪")
    with pytest.raises(ValueError, match="are not one image"):
        _ = found.patches
    exchanged = explainer.explain(messages, "old", images=[photograph(1), photograph(0)])
    assert not torch.allclose(exchanged.values, found.values, rtol=1e-2)


def test_images_may_be_within_messages_and_signs_like_their_parts_in_texts():
    model, processor = llava()
    explainer = GenerationAttention(model, processor)
    parts = [{"type": "image", "image": photograph()}, {"type": "text", "text": "▪ the cat is old . ▪ is it ?"}]
    found = explainer.explain([{"role": "user", "content": parts}], "old")
    given = explainer.explain([{"role": "user", "content": [{"type": "image"}, parts[1]]}], "old", images=photograph())
    assert torch.equal(found.values, given.values)
    assert [source.text for source in found.sources] == ["image", "▪ the cat is old ."]
    assert len(found.prompt.patches) == 16
    words = explainer.explain([{"role": "user", "content": [parts[1]]}], "old")
    assert words.prompt.text == "user : ▪ the cat is old . ▪ is it ? assistant : "
    assert words.picture is None


@pytest.mark.parametrize("name", MODELS)
def test_images_are_named_whatever_the_sources_are(name):
    build, place = MODELS[name]
    model, processor = build()
    explainer = GenerationAttention(model, processor)
    for sources in ("sentences", "paragraphs", "messages"):
        found = explainer.explain(place + QUESTION, "old", images=photograph(), sources=sources, question="")
        assert found.sources[0].text == "image"


PLACES = {  # the images' spans in a prompt's text, by model and what stands before the question
    ("llava", "<image><image>"): [(0, 16), (16, 32)],
    ("llava", "<image>a<image>"): [(0, 16), (17, 33)],
    ("llava", "a ▪ <image> and <image>"): [(4, 20), (25, 41)],
    ("gemma-3", "<boi><boi>"): [(0, 18), (18, 36)],
    ("gemma-3", "<boi>\n<boi>"): [(0, 18), (19, 37)],
}


@pytest.mark.parametrize(("name", "before"), PLACES)
def test_each_of_several_images_stands_where_its_tokens_do(name, before):
    model, processor = MODELS[name][0]()
    images = [photograph(0), photograph(1)]
    found = GenerationAttention(model, processor).explain(before + QUESTION, "old", images=images, question="")
    assert list(found.prompt.image_spans) == PLACES[name, before]
    for span in found.prompt.image_spans:
        assert found.prompt.text[slice(*span)].count("▪") == (16 if name == "llava" else 4)
    assert [source.text for source in found.sources if source.text.startswith("image")] == ["image 1", "image 2"]
    assert len(found.prompt.patches) == (32 if name == "llava" else 8)


def test_further_questions_are_of_the_same_image():
    model, processor = llava()
    explainer = GenerationAttention(model, processor)
    found = explainer.explain("<image> " + QUESTION, "it is old", images=photograph())
    torch.testing.assert_close(found.map.sum(0), found.values)
    torch.testing.assert_close(found.of("old"), found.map[-1])
    other = explainer.explain("<image> " + QUESTION, "it is young", images=photograph())
    count = len(found.prompt.ids)
    torch.testing.assert_close(found.against("it is young")[:count], found.values[:count] - other.values[:count])
    assert explainer.source_game(found).shape == (3,)
    assert explainer.influence_of_heads(found).shape == (2, 4, len(found.values))
    whole = GenerationAttention(model, processor, method=partial(ShapleyGradAttention, game="cls"))
    assert whole.explain("<image> " + QUESTION, "it is old", images=photograph()).picture == found.picture


def test_responses_to_prompts_with_images_are_classified_and_measured():
    model, processor = llava()
    prompts = [f"<image> the cat is {word} . is it ?" for word in ("old", "young")]
    images = [photograph(0), photograph(1)]
    inputs = response_inputs(prompts, ["it is old", "it is"], processor, images=images, model=model)
    assert inputs["pixel_values"].shape == (2, 3, 32, 32)
    classifier = ResponseClassifier(model)
    for row, image in enumerate(images):
        found = GenerationAttention(model, processor).explain(prompts[row], ["it is old", "it is"][row], images=image)
        expected = torch.sigmoid(found.scores.mean())
        one = {name: value[row : row + 1] for name, value in inputs.items() if name != "players"}
        torch.testing.assert_close(classifier(**one).softmax(-1)[0, 0].detach(), expected, rtol=1e-4, atol=1e-6)
    methods = {"game": ShapleyGradAttention(classifier, game="cls"), "raw": RawAttention(classifier)}
    found = methods["game"].attribute_tokens(inputs, target=0)
    assert found.picture.counts == (4, 4)
    assert found.players[:, 1:17].all()
    table = evaluate(
        classifier, inputs, methods, tokenizer=processor.tokenizer, show_progress=False, replacement=5
    ).table(["comprehensiveness"])
    assert set(table.method) == {"game", "raw", "random"}
    assert table["mean"].notna().all()


def test_what_does_not_go_together_is_refused():
    model, processor = llava()
    explainer, tokens = GenerationAttention(model, processor), GenerationAttention(model, processor.tokenizer)
    image, text = photograph(), "<image> the cat is old ."
    with pytest.raises(ValueError, match="places for an image: give images="):
        explainer.explain(text, "old")
    with pytest.raises(ValueError, match="places for an image: give images="):
        tokens.explain(text, "old")
    with pytest.raises(TypeError, match="processor: give it in the place of the tokenizer"):
        tokens.explain(text, "old", images=image)
    with pytest.raises(ValueError, match="2 images for 1 places"):
        explainer.explain(text, "old", images=[image, image])
    bare = llava()[1]
    bare.tokenizer.bos_token = "[CLS]"  # so that no token closes a text that begins with it
    with pytest.raises(ValueError, match="ends with an image"):
        GenerationAttention(model, bare).explain("[CLS] is it <image>", "old", images=image)
    with pytest.raises(ValueError, match="models write none"):
        explainer.explain(text, "<image> old", images=image)
    reader, words = gemma3()
    with pytest.raises(ValueError, match=r"where no image stands|contained 0 image tokens"):  # lower versions say it
        GenerationAttention(reader, words).explain("<boi> a <soft> is it ?", "old", images=image)
    with pytest.raises(ValueError, match="1 images for 0 places"):
        explainer.explain("the cat is old .", "old", images=image)
    with pytest.raises(ValueError, match="parts that are no text"):
        explainer.explain(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it ?"}]}], "old"
        )
    with pytest.raises(ValueError, match="nothing says which tokens are parts of images"):
        GenerationAttention(chat_model()[0], processor).explain(text, "old", images=image)
    found = explainer.explain(text, "old", images=image, question="")
    with pytest.raises(ValueError, match="cannot be asked again"):
        leave_one_out(explainer, found)
    inputs = response_inputs([text], ["old"], processor, images=[image], model=model)
    with pytest.raises(ValueError, match="one response is explained at a time"):
        explainer.of_batch(inputs, torch.tensor([0]))
    with pytest.raises(ValueError, match="expected some for each"):
        response_inputs([text], ["old"], processor, images=[image, image], model=model)
    with pytest.raises(ValueError, match="model= says which"):
        response_inputs([text], ["old"], processor, images=[image])
    with pytest.raises(ValueError, match="one image in each prompt"):
        response_inputs([text, "is it ?"], ["old", "no"], processor, images=[image, None], model=model)
    with pytest.raises(ValueError, match="one image in each prompt"):
        response_inputs([f"{text} {text}"], ["old"], processor, images=[[image, image]], model=model)
    with pytest.raises(ValueError, match="places for an image"):
        response_inputs([text], ["old"], processor, model=model)
    with pytest.raises(TypeError, match="takes no pixel_valuse"):
        ResponseClassifier(model)(inputs["input_ids"], inputs["response_ids"], pixel_valuse=inputs["pixel_values"])
