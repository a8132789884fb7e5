"""What defaults were chosen by, as a user measures it, on small data."""

from __future__ import annotations

import argparse
import json
import math

import choose_default
import pandas as pd
import pytest
import torch
from helpers.small_models import TEXT_MODEL, load_text_model
from scripts import run
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from captum_attn import ShapleyGradAttention

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
    printed = run(
        "benchmarks/choose_default.py", *folders, "--decoder", str(decoder), "--sets", "sst2", folder=tmp_path
    )
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


def test_people_said_what_words_mean_alone(folders):
    model, tokenizer = load_text_model()
    data = choose_default.Data("sst2", ["a good , good film", "so dull"], [1, 1], model, tokenizer)
    folder = choose_default.Path(folders[1])
    assert choose_default.words_of_sentiment(data, folder) == [[(2, 6), (9, 13)], []]


def test_next_tokens_are_measured_as_a_plain_loop_does(folders, decoder):
    model, tokenizer = LlamaForCausalLM.from_pretrained(decoder).eval(), AutoTokenizer.from_pretrained(decoder)
    options = argparse.Namespace(data=choose_default.Path(folders[1]), split="test", limit=1)
    found = choose_default.of_next_tokens(model, tokenizer, options).set_index("method")["mean"]

    def probabilities(ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)

    ids, replacement = tokenizer(SENTENCE)["input_ids"], tokenizer("the", add_special_tokens=False)["input_ids"][0]
    whole = probabilities(ids)
    game = ShapleyGradAttention(model, tokenizer=tokenizer, game="cls")
    players = torch.ones(1, len(ids), dtype=torch.bool)
    values = game.attribute_tokens(torch.tensor([ids]), (-1, int(whole.argmax())), players=players).values[0].tolist()
    ranked = sorted(range(len(ids)), key=lambda place: -values[place])
    drops = []
    for percentage in (0, 1, 5, 10, 20, 50):
        top = ranked[: math.ceil(len(ids) * percentage / 100)]
        changed = [replacement if place in top else token for place, token in enumerate(ids)]
        drops.append(float(whole.max() - probabilities(changed)[whole.argmax()]))
    assert found["cls, signed, gradient"] == pytest.approx(sum(drops) / len(drops), rel=1e-3, abs=0)


def test_five_passes_are_chosen_on_training_sentences(folders, tmp_path):
    printed = run("benchmarks/choose_passes.py", *folders, "--limit", "2", folder=tmp_path)
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
