"""What defaults were chosen by, as a user measures it, on small data."""

from __future__ import annotations

import json

import choose_default
import pandas as pd
import pytest
import torch
from scripts import run
from small_models import TEXT_MODEL, load_text_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

SENTENCE = "a good film that goes on and on about nothing much at all , so dull"


@pytest.fixture
def folders(tmp_path):
    """The options that say where the data and the models lie."""
    data, models = tmp_path / "data", tmp_path / "models"
    (data / "sst2").mkdir(parents=True)
    for name in ("planted_facts", "imdb"):
        (data / name).mkdir()
    models.mkdir()
    (models / "minilm-sst2").symlink_to(TEXT_MODEL)
    (data / "sst2" / "dev.tsv").write_text("sentence\tlabel\na good film \t1\nso dull \t0\n")
    train = ["sentence\tlabel", "good \t1", "dull \t0", "film \t1", "film \t0", f"{SENTENCE} \t0", f"{SENTENCE} ! \t0"]
    (data / "sst2" / "train.tsv").write_text("\n".join(train) + "\n")
    (data / "imdb" / "test.jsonl").write_text(json.dumps({"text": SENTENCE, "label": 0}) + "\n")
    case = {"paragraphs": ["the cat is old .", "the dog is young ."], "question": "how old is the dog ?", "planted": 1}
    (data / "planted_facts" / "cases.jsonl").write_text(json.dumps({**case, "generated": "it is young ."}) + "\n")
    return "--data", str(data), "--models", str(models)


@pytest.fixture
def decoder(tmp_path):
    """The folder of a small chat model with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(TEXT_MODEL)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def test_one_table_of_data_sets_people_and_a_language_model(folders, decoder, tmp_path):
    printed = run("choose_default.py", *folders, "--decoder", str(decoder), "--sets", "sst2", folder=tmp_path)
    assert "| game, sign, propagation | sst2 | people | planted first | correlation | next token |" in printed
    frame = pd.read_csv(tmp_path / "found" / "choose_default.csv")
    measures = {"sst2, replacement", "sst2, knockout", "people", "planted first", "correlation", "next token"}
    assert set(frame.measure) == measures
    tunnels = {name for name in frame.method if name.startswith("MaskTunnel")}
    assert frame.groupby("method").measure.nunique().loc[[*tunnels, "AttnLRP", "random"]].tolist() == [3, 3, 5, 6]
    next_token = frame.measure == "next token"
    assert (~next_token).sum() == (len(measures) - 1) * frame.method.nunique() - 2 * len(tunnels)
    games = frame[next_token]
    assert len(games) == 9
    assert games["mean"].between(-1, 1).all()


def test_people_said_what_words_mean_alone(folders):
    model, tokenizer = load_text_model()
    data = choose_default.Data("sst2", ["a good , good film", "so dull"], [1, 1], model, tokenizer)
    folder = choose_default.Path(folders[1])
    assert choose_default.words_of_sentiment(data, folder) == [[(2, 6), (9, 13)], []]


def test_an_answers_score_is_the_log_odds_of_its_tokens(decoder):
    model, ids = LlamaForCausalLM.from_pretrained(decoder).eval(), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[0].softmax(-1)
        found = choose_default.Answer(model, 2)(ids)
    expected = sum(torch.logit(probabilities[place, token]) for place, token in ((1, 7), (2, 8)))
    torch.testing.assert_close(found, expected.view(1, 1), rtol=1e-4, atol=1e-4)


def test_five_passes_are_chosen_on_training_sentences(folders, tmp_path):
    printed = run("choose_passes.py", *folders, "--limit", "2", folder=tmp_path)
    assert "2 sentences of SST-2's training set" in printed
    rows = {line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")}
    assert {"path 5", "2 pairs of complementary masks", "path 5; cp", "AttnLRP", "random"} < rows


def test_the_chosen_plan_is_what_the_class_does():
    from choose_passes import CHOSEN, PLANS, Planned

    from captum_attn import IntegratedAttnLRP

    model, tokenizer = load_text_model()
    batch = tokenizer(["a gripping , funny film", "not good at all"], padding=True, return_tensors="pt")
    planned, ours = (
        method(model, *more, tokenizer=tokenizer).attribute(batch, target=1)
        for method, more in ((Planned, [PLANS[CHOSEN]]), (IntegratedAttnLRP, []))
    )
    torch.testing.assert_close(planned, ours)
