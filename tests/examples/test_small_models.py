"""The shipped models have learned something, and explanations of them make sense."""

from __future__ import annotations

import random

import pytest
import torch
from helpers.small_models import MODELS, digits, load_answering_model, load_image_model, load_text_model
from helpers.stories import made_story

from captum_attn import GenerationAttention, ShapleyGradAttention

PRAISE = ["a gripping , funny and touching film .", "The acting is wonderful.", "one of the best films of the year"]
BLAME = ["the plot is dull and the acting is terrible .", "not good", "a tedious, lifeless mess"]


@pytest.fixture(scope="module")
def text_model():
    return load_text_model()


def size(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


def test_models_are_small():
    assert size(MODELS / "bert-sst2") <= 8e6
    assert size(MODELS / "vit-digits") <= 2e6


def test_digits_are_recognised_on_the_held_out_quarter():
    model, (_, _, images, labels) = load_image_model(), digits()
    with torch.no_grad():
        accuracy = (model(images).logits.argmax(-1) == labels).double().mean()
    assert len(labels) == 450
    assert accuracy >= 0.95


@pytest.mark.parametrize(("sentences", "label"), [(PRAISE, 1), (BLAME, 0)])
def test_sentiment_of_plain_sentences(text_model, sentences, label):
    model, tokenizer = text_model
    with torch.no_grad():
        logits = model(**tokenizer(sentences, padding=True, return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [label] * len(sentences)


@pytest.mark.parametrize(("praise", "blame"), [("beautiful", "dull"), ("wonderful", "terrible"), ("funny", "boring")])
def test_the_word_that_decides_stands_out_with_its_sign(text_model, praise, blame):
    model, tokenizer = text_model
    batch = tokenizer(f"the music is {praise} but the story is {blame}", return_tensors="pt")
    explainer = ShapleyGradAttention(model, game="incoming", sign="signed", tokenizer=tokenizer)
    values = explainer.attribute(batch, target=1)[0]
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens[values.argmax()] == praise
    assert tokens[values.argmin()] == blame


def test_special_tokens_and_padding_get_nothing(text_model):
    model, tokenizer = text_model
    batch = tokenizer(["a gripping film", "a film that is 🙂 not good at all"], padding=True, return_tensors="pt")
    values = ShapleyGradAttention(model, tokenizer=tokenizer).attribute(batch)
    special = torch.isin(batch["input_ids"], torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
    assert not values[special | ~batch["attention_mask"].bool()].any()
    assert values[batch["input_ids"] == tokenizer.unk_token_id].abs().sum() > 0


def test_values_without_the_tokenizer_are_the_same(text_model):
    model, tokenizer = text_model
    batch = tokenizer(PRAISE + BLAME, padding=True, return_tensors="pt")
    told = ShapleyGradAttention(model, tokenizer=tokenizer).attribute_tokens(batch)
    guessed = ShapleyGradAttention(model).attribute_tokens(batch)
    assert torch.equal(told.players, guessed.players)


def test_answers_of_the_decoder_come_from_their_sentence():
    """Questions of names and answers that it was not trained on; the sentence that says the answer has to stand out."""
    draw = random.Random(1)
    model, tokenizer = load_answering_model()
    explainer, right, first = GenerationAttention(model, tokenizer), 0, 0
    for _ in range(25):
        story = made_story(draw, 5, "plain", test=True)
        ((question, answer),) = story.questions
        messages = [{"role": "user", "content": f"{story.text}\n\nQuestion: {question}"}]
        found = explainer.explain(messages, max_new_tokens=24, do_sample=False, question=f"Question: {question}")
        if found.response == answer:
            right += 1
            first += found.sources[int(found.source_values.argmax())].text == answer
    assert right >= 20
    assert first >= 0.9 * right
    assert size(MODELS / "llama-facts") <= 4e6
