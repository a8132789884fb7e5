"""Data sets of prompts and responses, explained under ``trainer.predict`` and written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import chat_model
from lightning.fabric.utilities.exceptions import MisconfigurationException
from models import left_untouched
from predictions import predict
from readers_of_images import llava, photograph
from tokenizers import normalizers
from torch.utils.data import DataLoader
from transformers import GenerationConfig

from captum_attn import AttnLRP, GenerationAttention, ShapleyGradAttention
from lightning_callbacks import AttributionModule, GenerationModule, read_attributions
from lightning_callbacks.plain_settings import plain

CHAT = [{"role": "user", "content": "the cat is old . the dog is young .\n\nhow old is the dog ?"}]
ROWS: list[dict[str, Any]] = [
    {"prompt": CHAT, "response": "it is young", "id": 7},
    {"prompt": "a film .", "response": "fine"},
    {"prompt": "the cat is old . it is a cat .", "response": "old", "sources": ["the cat is old ."], "question": None},
]


@pytest.fixture(scope="module")
def explainer() -> GenerationAttention:
    return GenerationAttention(*chat_model())


def loader(rows: Any = ROWS, **options: Any) -> DataLoader[Any]:
    return DataLoader(rows, **{"batch_size": 2, "collate_fn": list, **options})


def test_rows_are_those_that_the_explainer_returns(explainer: Any) -> None:
    with left_untouched(explainer.model):
        GenerationModule(explainer).predict_step(ROWS)
    tables = predict(GenerationModule(explainer, maps=True), loader())
    rows = [row for table in tables for row in table.to_pylist()]
    options: list[dict[str, Any]] = [{}, {}, {"sources": ["the cat is old ."]}]
    for row, given, extra in zip(rows, ROWS, options, strict=True):
        found = explainer.explain(given["prompt"], given["response"], **extra)
        assert (row["prompt"], row["response"]) == (found.prompt.text, found.response)
        assert row["tokens"] == found.tokens
        assert row["ids"] == [*found.prompt.ids, *found.response_ids]
        assert row["prompt_length"] == len(found.prompt.ids)
        assert row["sources"] == [source.text for source in found.sources]
        assert row["token_source"] == found.groups.tolist()
        for name, values in (
            ("scores", found.values),
            ("token_scores", found.scores),
            ("probabilities", found.probabilities),
            ("source_scores", found.source_values),
            ("map", found.map),
        ):
            torch.testing.assert_close(torch.tensor(row[name]), values, rtol=1e-5, atol=1e-7)
        assert row["share_outside"] == pytest.approx(found.share_outside)
    assert all(row["map"] is None for row in predict(GenerationModule(explainer), loader())[0].to_pylist())


def test_a_folder_holds_all_and_goes_on_where_it_was_cut_short(explainer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "explained"
    predict(GenerationModule(explainer), loader(), folder)
    whole = read_attributions(folder, complete=True)
    assert whole.response.tolist() == ["it is young", "fine", "old"]
    max(folder.glob("*.parquet")).unlink()
    predict(GenerationModule(explainer), loader(batch_size=3), folder)
    again = read_attributions(folder, complete=True)
    assert all((one == other).all() for one, other in zip(again.scores, whole.scores, strict=True))


def test_what_was_begun_under_other_rules_is_not_gone_on_with(explainer: Any, tmp_path: Path) -> None:
    predict(GenerationModule(explainer), loader(), tmp_path)
    other = GenerationAttention(explainer.model, explainer.tokenizer, propagation="cp")
    with pytest.raises(MisconfigurationException, match=r"method.propagation.name: 'attnlrp' there, 'cp' here"):
        predict(GenerationModule(other), loader(), tmp_path)
    _, tokenizer = chat_model()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "answer")
    with pytest.raises(MisconfigurationException, match=r"tokenizer.chat_template: .* there, .* here"):
        predict(GenerationModule(GenerationAttention(explainer.model, tokenizer)), loader(), tmp_path)
    _, tokenizer = chat_model()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(MisconfigurationException, match=r"tokenizer.rules: .* there, .* here"):
        predict(GenerationModule(GenerationAttention(explainer.model, tokenizer)), loader(), tmp_path)
    written = GenerationModule(explainer, generation_config=GenerationConfig(max_new_tokens=2))
    predict(written, loader(), tmp_path / "written")
    longer = GenerationModule(explainer, generation_config=GenerationConfig(max_new_tokens=6))
    with pytest.raises(MisconfigurationException, match=r"generation_config.max_new_tokens: 2 there, 6 here"):
        predict(longer, loader(), tmp_path / "written")
    with pytest.raises(MisconfigurationException, match=r"sources.sources: 'sentences' there, 'paragraphs' here"):
        predict(GenerationModule(explainer, sources="paragraphs"), loader(), tmp_path)


def test_rules_are_settings_of_every_method(explainer: Any) -> None:
    methods = [partial(ShapleyGradAttention, propagation=name) for name in ("gradient", "attnlrp", "cp")]
    methods += [AttnLRP, partial(AttnLRP, propagation="cp")]
    settings = [AttributionModule(explainer.model, method).settings() for method in methods]
    assert len({str(plain(one)) for one in settings}) == len(methods)


def test_the_model_writes_what_rows_do_not_have(explainer: Any) -> None:
    rows = [{"prompt": "a film ."}, ROWS[1]]
    module = GenerationModule(explainer, max_new_tokens=3, do_sample=False)
    written, given = predict(module, loader(rows))[0].to_pylist()
    expected = explainer.explain("a film .", max_new_tokens=3, do_sample=False)
    assert written["response"] == expected.response
    assert given["response"] == "fine"
    torch.manual_seed(0)
    sampling = GenerationModule(explainer, max_new_tokens=6, do_sample=True)
    tables = predict(sampling, loader([{"prompt": "a film ."}] * 3))
    assert len({row["response"] for table in tables for row in table.to_pylist()}) == 3


def test_batches_may_be_mappings_of_lists(explainer: Any) -> None:
    module = GenerationModule(explainer)
    columns = {"prompt": ["a film .", "a cat ."], "response": ["fine", "old"]}
    (expected,) = module.predict_step([{"prompt": "a cat .", "response": "old"}]).to_pylist()
    assert module.predict_step(columns).to_pylist()[1] == expected


def test_bad_rows_are_named(explainer: Any) -> None:
    module = GenerationModule(explainer)
    for batch, kind, message in (
        ([{"text": "a film ."}], ValueError, "a row has no prompt, but 'text'"),
        ([{"prompt": "a film .", "answer": "fine"}], ValueError, "a row has no response, and GenerationModule has"),
        (["a film ."], TypeError, "give the data loader collate_fn=list"),
        ({"prompt": "a film ."}, TypeError, "a mapping of lists"),
        ({"prompt": ["a film ."], "response": [torch.tensor([7])]}, TypeError, "a mapping of lists"),
    ):
        with pytest.raises(kind, match=message):
            module.predict_step(batch)
    with pytest.raises(MisconfigurationException, match=r"must be a captum_attn\.GenerationAttention of an"):
        GenerationModule(explainer.model)
    with pytest.raises(MisconfigurationException, match="'source': did you mean 'sources'"):
        GenerationModule(explainer, source="paragraphs")
    with pytest.raises(ValueError, match="a collate_fn that neither leaves out nor splits"):
        module.explained(ROWS[:1], [True, False])


def test_rows_may_have_images() -> None:
    model, processor = llava()
    rows = [
        {"prompt": "<image> the cat is old . is it ?", "response": "it is old", "images": photograph(number)}
        for number in range(2)
    ]
    explainer = GenerationAttention(model, processor)
    module = GenerationModule(explainer)
    (table,) = predict(module, loader(rows))
    for row, given in zip(table.to_pylist(), rows, strict=True):
        found = explainer.explain(given["prompt"], given["response"], images=given["images"])
        torch.testing.assert_close(torch.tensor(row["scores"]), found.values, rtol=1e-4, atol=1e-7)
        assert row["patches"] == found.prompt.patches == list(range(1, 17))
        assert row["sources"] == ["image", "the cat is old ."]
    other = GenerationAttention(model, llava()[1])
    other.reader.image_processor.do_normalize = False
    assert module.settings()["tokenizer"] != GenerationModule(other).settings()["tokenizer"]
    with pytest.raises(ValueError, match="places for an image"):
        module.predict_step([{"prompt": "<image> is it ?", "response": "old"}])
