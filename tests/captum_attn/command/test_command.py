"""The command as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import transformers
from helpers.small_models import ANSWER_MODEL, CLIP_MODEL, SOUND_MODEL, TEXT_MODEL, TEXTURE_MODEL
from helpers.textures import striped_fish
from pages import assert_self_contained, views_of
from PIL import Image
from scipy.io import wavfile
from typer.testing import CliRunner

import captum_attn
from captum_attn.command import Method, app
from captum_attn.command.loading import load

STORY = "The lighthouse of Dunmore was painted green.\n\nThe museum of Carrow is closed on Monday."
QUESTION = f"{STORY}\n\nQuestion: What colour was the lighthouse of Dunmore painted?"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a folder of its own: what it printed, and the page, if one was written."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, fails=False):
        result = CliRunner().invoke(app, [*map(str, arguments)], terminal_width=200)
        assert (result.exit_code != 0) == fails, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        page = next(tmp_path.rglob("*.html"), None)
        return result.output, page and page.read_text(encoding="utf-8")

    return run


def test_a_text(run):
    printed, page = run("explain", "--model", TEXT_MODEL, "--text", "A slow start, but moving!", "--text", "not good")
    assert "A slow start, but moving!" in printed
    assert "Wrote explained.html" in printed
    assert_self_contained(page)
    first, second = views_of(page)
    assert "".join(first["tokens"]) == "[CLS]A slow start, but moving![SEP]"
    assert [method["name"] for method in second["methods"]] == ["IntegratedAttnLRP", "attention game"]
    assert first["influence"]["heads"] == 4


def test_a_target_methods_and_pieces_of_ones_own(run):
    options = (
        "--target",
        "negative",
        "--method",
        "RawAttention",
        "--method",
        "GradSAM",
        "--pieces",
        "--out",
        "a/b.html",
    )
    _, page = run("explain", "--model", TEXT_MODEL, "--text", "unspeakably good", *options)
    (view,) = views_of(page)
    assert view["classes"] == ["negative"]
    assert [method["name"] for method in view["methods"]] == ["RawAttention", "GradSAM"]
    assert "uns" in "|".join(view["tokens"]).replace(" ", "").split("|")


def test_every_method_of_the_command_is_a_public_name(run):
    assert {*map(str, Method)} <= {*captum_attn.__all__}
    options = [part for method in Method for part in ("--method", str(method))]
    _, page = run("explain", "--model", TEXT_MODEL, "--text", "good", *options)
    assert [method["name"] for method in views_of(page)[0]["methods"]] == [*map(str, Method)]


def test_an_image_and_a_sound(run, tmp_path):
    striped_fish().save(tmp_path / "fish.png")
    printed, page = run("explain", "--model", TEXTURE_MODEL, "--image", "fish.png")
    assert "zebra" in printed
    assert views_of(page)[0]["picture"]["rows"] == 8
    wavfile.write(tmp_path / "call.wav", 8_000, np.sin(np.arange(8_000) / 5).astype(np.float32))
    with pytest.warns(UserWarning, match="convolution"):
        _, page = run("explain", "--model", SOUND_MODEL, "--audio", "call.wav", "--method", "AttnLRP")
    assert "data:image/png" in page


def test_a_video_in_a_folder_or_as_a_gif(run, tmp_path):
    size = {"height": 32, "width": 32}
    config = transformers.VideoMAEConfig.from_pretrained(CLIP_MODEL, num_channels=3)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "model")
    processor = transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor.save_pretrained(tmp_path / "model")
    frames = [Image.new("RGB", (40, 32), (shade, 0, 0)) for shade in range(0, 200, 10)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    for video in ("clip.gif", "frames"):
        _, page = run("explain", "--model", "model", "--video", video, "--method", "ShapleyGradAttention")
        assert "data:image/png" in page


def test_an_answer(run):
    printed, page = run("explain", "--model", ANSWER_MODEL, "--prompt", QUESTION)
    assert "Wrote explained.html" in printed
    assert "The lighthouse of Dunmore was painted green." in printed.splitlines()[1]  # the source that is first
    (view,) = views_of(page)
    assert view["kind"] == "response"
    assert "green" in "".join(token["text"] for token in view["response"])
    _, page = run("explain", "--model", ANSWER_MODEL, "--prompt", QUESTION, "--response", "It was painted purple.")
    assert "purple" in "".join(token["text"] for token in views_of(page)[0]["response"])


def test_evaluating_texts_and_images(run, tmp_path):
    (tmp_path / "texts.tsv").write_text("sentence\tlabel\na gripping film\tpositive\nnot good at all\tnegative\n")
    printed, page = run("evaluate", "--model", TEXT_MODEL, "--data", "texts.tsv", "--method", "RawAttention")
    assert "RawAttention" in printed
    assert "random" in printed
    assert "comprehensiveness" in page
    for number in range(2):
        striped_fish().save(tmp_path / f"{number}.png")
    assert "AttnLRP" in run("evaluate", "--model", TEXTURE_MODEL, "--data", ".", "--method", "AttnLRP")[0]


def test_a_table_is_read_as_it_stands(run, tmp_path):
    rows = ['an "unbalanced film\tpositive', "not good\tnegative", 'a "gem\tpositive', "null\tnegative"]
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    options = ("--model", TEXT_MODEL, "--method", "RawAttention", "--data")
    assert "over 4 examples" in run("evaluate", *options, "texts.tsv")[0]
    (tmp_path / "own.csv").write_text("id,comment,label\n1,a gripping film,positive\n2,not good,negative\n")
    assert "say which holds the texts with --column" in run("evaluate", *options, "own.csv", fails=True)[0]
    assert "over 2 examples" in run("evaluate", *options, "own.csv", "--column", "comment")[0]


def test_a_class_whose_name_is_a_number_is_meant_by_it(run, tmp_path):
    loaded = load(str(TEXT_MODEL))
    loaded.model.config.id2label, loaded.model.config.label2id = {0: "1", 1: "2"}, {"1": 0, "2": 1}
    loaded.model.save_pretrained(tmp_path / "stars")
    loaded.processor.save_pretrained(tmp_path / "stars")
    for target in ("1", "0"):
        _, page = run("explain", "--model", "stars", "--text", "good film", "--target", target, "--method", "GradSAM")
        assert views_of(page)[0]["classes"] == ["1"]


def test_a_terminal_is_told_what_it_can_print():
    from captum_attn.command.terminal import _printable

    for text in ("prix\u00a0: 5", "東京\u3000駅", "a\tb", "👨\u200d👩"):
        assert _printable(text) == text
    assert _printable("\x1b[31mred") == "\ufffd[31mred"


def test_inspecting(run):
    printed, _ = run("inspect", "--model", TEXT_MODEL, "--text", "a gripping film")
    assert printed.startswith("ok: gradients agree")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", TEXT_MODEL), "classifies texts: give --text"),
        (("--model", TEXT_MODEL, "--text", " "), "--text is empty"),
        (("--model", TEXT_MODEL, "--image", "a.png"), "classifies texts: give --text, and nothing else"),
        (("--model", TEXTURE_MODEL, "--image", "missing.png"), "missing.png: there is no such file"),
        (("--model", TEXT_MODEL, "--text", "fine", "--target", "great"), "There are 'negative', 'positive'"),
        (("--model", TEXT_MODEL, "--prompt", "Why?"), "writes nothing: give --text"),
        (("--model", ANSWER_MODEL, "--text", "fine"), "writes text: give --prompt"),
        (("--model", ANSWER_MODEL, "--prompt", "Why?", "--target", "yes"), "without --target"),
        (("--model", TEXT_MODEL, "--text", "fine", "--response", "no"), "an answer to a --prompt"),
        (("--model", "some/where/else", "--text", "fine"), "else: there is no such folder"),
        (("--model", "no/such", "--text", "fine"), "is no folder here, nor in the hub's cache, and HF_HUB_OFFLINE"),
    ],
)
def test_what_is_wrong_is_one_line(run, arguments, message):
    printed, page = run("explain", *arguments, fails=True)
    assert message in printed.strip().splitlines()[-1]  # after what libraries may have to say
    assert "Traceback" not in printed
    assert page is None


def test_a_hub_name_without_network_says_so_at_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:9")
    start = time.monotonic()
    with pytest.raises(ValueError, match="nor in the hub's cache, and localhost cannot be reached"):
        load("no/such")
    assert time.monotonic() - start < 5


def test_code_of_a_model_is_never_run(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}, "architectures": ["Own"]})
    )
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass OwnConfig: pass\n")
    with pytest.raises(ValueError, match="needs code of its own, which this command never runs"):
        load(str(tmp_path))
    assert not ran.exists()


def test_help_needs_nothing_but_a_plain_install_and_commands_name_what_they_need(tmp_path):
    (tmp_path / "transformers.py").write_text("raise ModuleNotFoundError(name='transformers')")

    def said(*arguments):
        command = [sys.executable, "-c", "import sys; from captum_attn.command import app; app()", *arguments]
        environment = {"PYTHONPATH": f"{tmp_path}:{Path(captum_attn.__file__).parents[1]}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.stdout + done.stderr

    assert "explain" in said("--help")
    assert "--prompt" in said("explain", "--help")
    missing = said("explain", "--model", "a", "--text", "b")
    assert "needs transformers, which is not installed: pip install 'captum-attn[transformers]'" in missing
