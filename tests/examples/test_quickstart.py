"""The quickstart as a user runs it: from another folder, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import quickstart
from PIL import Image
from scipy.io import wavfile
from scripts import EXAMPLES, run_alone

TEXT_MODEL, IMAGE_MODEL, SOUND_MODEL, CLIP_MODEL = (
    str(EXAMPLES / "models" / name) for name in ("bert-sst2", "vit-digits", "wav2vec2-calls", "videomae-digits")
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the quickstart with some arguments in a folder that holds ``white.png``; the files it wrote."""
    Image.new("RGB", (20, 20), "white").save(tmp_path / "white.png")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
        quickstart.main()
        return sorted(path.name for path in (tmp_path / "out" / "quickstart").iterdir())

    return run


def page():
    return Path("out/quickstart/index.html").read_text(encoding="utf-8")


def test_without_arguments_it_explains_a_text_and_an_image_in_a_process_of_its_own(tmp_path):
    printed = run_alone("quickstart.py", folder=tmp_path)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["image.png", "index.html", "text.png"]
    assert "beautiful" in printed
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert ">beautiful</span>" in page
    assert "src='image.png'" in page
    assert Image.open(tmp_path / "found" / "text.png").size[0] > 500


def test_a_model_a_text_and_a_target_of_ones_own(run, capsys):
    options = ("--model", TEXT_MODEL, "--text", "a <i>gripping</i> film", "--target", "NEGATIVE", "--game", "mutual")
    assert run(*options) == ["index.html", "text.png"]
    assert "explained negative" in capsys.readouterr().out
    assert "<i>" not in page()
    assert "ShapleyGradAttention, mutual" in page()


def test_a_text_that_is_cut_says_so(run):
    run("--text", "good film, " * 100)
    assert "the first 128 of 302 tokens" in page()


def test_each_method_says_what_its_values_are(run):
    run("--text", "a gripping film")
    assert "rules of AttnLRP, the mean over five contexts, on the scale" in page()
    assert "game" not in page()
    assert "IntegratedAttnLRP" in page()
    run("--text", "a gripping film", "--method", "attnlrp")
    assert "rules of AttnLRP, on the scale" in page()
    run("--text", "a gripping film", "--method", "game")
    assert "exact Shapley values of an attention game" in page()
    assert "ShapleyGradAttention, incoming, signed" in page()


def test_an_image_of_ones_own(run):
    assert run("--image", "white.png", "--sign", "rectified") == ["image.png", "index.html"]


def test_a_sound_and_a_video_whose_truth_is_known(run):
    assert run("--audio", "--video") == ["index.html", "sound.png", "video.png"]
    assert "A call in noise" in page()
    assert "predicted buzzing" in page()
    assert "predicted 4" in page()


def test_a_sound_and_a_video_of_ones_own(run, tmp_path):
    wave = (20_000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    wavfile.write(tmp_path / "call.wav", 16_000, np.stack([wave, wave], 1))
    wavfile.write(tmp_path / "bytes.wav", 16_000, (wave / 256 + 128).astype(np.uint8))
    of_bytes, expected = (quickstart.read_sound(tmp_path / name, 8000) for name in ("bytes.wav", "call.wav"))
    np.testing.assert_allclose(of_bytes, expected, atol=0.02)
    frames = [Image.new("L", (40, 30), shade) for shade in range(0, 200, 10)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    assert run("--audio", "call.wav", "--video", "clip.gif") == ["index.html", "sound.png", "video.png"]
    of_gif = page()
    (frames_read, chosen), (of_folder, _) = (
        quickstart.read_frames(tmp_path / name, 20) for name in ("clip.gif", "frames")
    )
    assert [frame.convert("L").getpixel((0, 0)) for frame in of_folder] == [*range(0, 200, 10)]
    assert (len(frames_read), chosen) == (20, "")
    assert "frames [0, 2, 3, 5, 7, 9, 10, 12, 14, 16, 17, 19] of 20" in of_gif
    run("--audio", "call.wav", "--video", "frames", "--method", "game")
    assert "call.wav" in of_gif
    assert "ShapleyGradAttention" in page()
    run("--model", SOUND_MODEL, "--audio", "call.wav", "--target", "rising")
    assert "rising" in page()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", "fine", "--target", "great"), "expected one of negative, positive"),
        (("--text", "fine", "--game", "chess"), "invalid choice: 'chess'"),
        (("--text", "fine", "--game", "cls", "--method", "attnlrp"), "--game and --sign are for --method game"),
        (("--image", "missing.png"), "missing.png: there is no such file"),
        (("--text", " "), "--text is empty"),
        (("--target", "positive"), "say which with --text, --image, --audio, --video or --model"),
        (("--out", "white.png"), "this is a file"),
        (("--model", "no/such"), "--model no/such"),
        (("--model", TEXT_MODEL, "--image", "white.png"), "classifies text"),
        (("--model", IMAGE_MODEL, "--text", "fine"), "classifies images"),
        (("--model", SOUND_MODEL, "--video", "white.png"), "classifies sounds: give one with --audio"),
        (("--model", CLIP_MODEL, "--video"), "classifies videos: give one with --video"),
        (("--audio", "white.png"), "expected a WAV file"),
        (("--video", str(Path(SOUND_MODEL) / "config.json")), "expected a GIF, or a folder of images"),
        (("--model", IMAGE_MODEL, "--image", "white.png"), "no image processor"),
    ],
)
def test_mistakes_are_explained(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code
    assert message in capsys.readouterr().err + str(stopped.value)
