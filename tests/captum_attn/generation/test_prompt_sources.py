"""Parts of prompts: found, given, and refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from chat_models import chat_model

from captum_attn.generation.prompt_sources import Source, find_sources, source_of_each
from captum_attn.generation.prompts import Prompt, read_prompt

TEXT = 'One is here. Is "two here?" Yes!\nThree...\n\n第四。第五。 End\n \nWhy?'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return chat_model()[1]


def texts(tokenizer: Any, prompt: Any, *given: Any) -> list[str]:
    return [source.text for source in find_sources(read_prompt(prompt, tokenizer), *given)]


def test_sentences_and_paragraphs(tokenizer: Any) -> None:
    sentences = ["One is here.", 'Is "two here?"', "Yes!", "Three...", "第四。", "第五。", "End"]
    assert texts(tokenizer, TEXT, "sentences") == sentences
    assert texts(tokenizer, TEXT, "sentences", "") == [*sentences, "Why?"]
    assert texts(tokenizer, TEXT, "paragraphs") == [TEXT[:41].strip(), "第四。第五。 End"]
    assert texts(tokenizer, TEXT, "paragraphs", "End")[1:] == ["Why?"]
    assert texts(tokenizer, "only this", "sentences") == ["only this"]
    titled = ["Dr. Roe saw Mrs. Poe, e.g. on Monday.", "Both had TVs.", "Prof. Doe fell."]
    assert texts(tokenizer, " ".join(titled), "sentences", "") == titled
    assert texts(tokenizer, "Did you see the Dr? He left.", "sentences", "") == ["Did you see the Dr?", "He left."]
    for whole in (
        ["1. Cleo is 9.", "2. Dan is 11."],
        ["J. R. R. Tolkien wrote it.", "At 5 p.m. they left the U.S. Senate."],
        ["Sie verbindet z.B. die Altstadt.", "هل هي قديمة؟", "यह पुराना है।", "End"],
    ):
        assert texts(tokenizer, " ".join(whole), "sentences", "") == whole


def test_messages_texts_and_spans(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": " a film . "}, {"role": "assistant", "content": "a film ."}]
    asked = [*messages, {"role": "user", "content": "why ?"}]
    assert texts(tokenizer, asked, "messages") == ["a film .", "a film ."]
    assert texts(tokenizer, TEXT, ["End", " One "]) == ["End", "One"]
    assert texts(tokenizer, TEXT, [(0, 3), (4, 6)]) == ["One", "is"]


def test_contents_are_not_sought_among_the_templates_words(tokenizer: Any) -> None:
    for word in ("user", "assistant", "a", "ser : "):
        prompt = read_prompt([{"role": "user", "content": word}, {"role": "assistant", "content": word}], tokenizer)
        begin = len("user : ")
        second = begin + len(word) + len(" assistant : ")
        inner = len(word.strip())
        assert prompt.contents == ((begin, begin + inner), (second, second + inner))


def test_a_rendered_chat_gets_no_second_beginning(tokenizer: Any) -> None:
    bare = chat_model()[1]
    bare.bos_token = "[CLS]"
    ids = read_prompt("[CLS] a film [SEP]", bare).ids
    assert ids.count(bare.bos_token_id) == 1
    assert not read_prompt("[CLS] a film [SEP]", bare).special_tokens


def test_spaces_within_a_source_are_its_own(tokenizer: Any) -> None:
    prompt = Prompt("a  b c", (1, 2, 3, 4), ((0, 1), (1, 3), (3, 4), (4, 6)), ((0, 6),), False)
    assert source_of_each(prompt, [Source("a  b", (0, 4))]) == [0, 0, 0, -1]


def test_tokens_belong_to_the_source_that_most_of_them_stands_in(tokenizer: Any) -> None:
    prompt = read_prompt([{"role": "user", "content": "so dull . a fine film"}], tokenizer)
    sources = find_sources(prompt, ["so dull .", "fine film"])
    named = [prompt.text[start:end] for start, end in prompt.offsets]
    found = dict(zip(named, source_of_each(prompt, sources), strict=True))
    assert {found[word] for word in ("so", "dull", ".")} == {0}
    assert {found[word] for word in ("fine", "film")} == {1}
    assert {found[word] for word in ("a", ":")} == {-1}


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ("words", ValueError, "sources must be 'sentences'"),
        ([], ValueError, "there are no sources"),
        (["nowhere"], ValueError, "stands nowhere"),
        (["here"], ValueError, "stands in it more than once"),
        ([(0, 5), (4, 9)], ValueError, r"the sources \(0, 5\) and \(4, 9\) overlap at"),
        ([(5, 5)], ValueError, "is empty, or lies outside"),
        ([(0, 500)], ValueError, "is empty, or lies outside"),
        ([(0, 1, 2)], TypeError, "a list of spans"),
        ([3], TypeError, "a list of spans"),
    ],
)
def test_what_are_no_sources(tokenizer: Any, sources: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        texts(tokenizer, TEXT, sources)


def test_prompts_that_cannot_be_read(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "A film"}]
    bare = chat_model()[1]
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        read_prompt(messages, bare)
    bare.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ValueError, match="does not keep the message 'A film'"):
        read_prompt(messages, bare)
    with pytest.raises(ValueError, match="takes a fast tokenizer"):
        read_prompt("a film", object())


def test_a_token_that_begins_a_text_is_in_no_source() -> None:
    _, tokenizer = chat_model()
    tokenizer.bos_token = "[CLS]"
    prompt = read_prompt("[CLS] the cat is old . how old ?", tokenizer)
    sources = find_sources(prompt, "sentences")
    assert [source.text for source in sources] == ["the cat is old ."]
    assert source_of_each(prompt, sources)[0] == -1
    assert prompt.given[0] is False


def test_a_last_part_that_may_be_no_question_is_told(tokenizer: Any) -> None:
    facts = [{"role": "user", "content": "how old is the cat ?\n\nthe cat is old ."}]
    for prompt, kind in ((facts, "sentences"), ([{"role": "system", "content": "be brief ."}, *facts], "messages")):
        with pytest.warns(UserWarning, match="is taken for the question, and so is no source"):
            assert len(find_sources(read_prompt(prompt, tokenizer), kind)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_sources(read_prompt("the cat is old . how old is the cat ?", tokenizer), "sentences")
        find_sources(read_prompt(facts, tokenizer), "sentences", "how old is the cat ?")
