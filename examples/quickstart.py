"""Which words of a sentence, patches of an image, moments of a sound or a video made a transformer decide?

    python examples/quickstart.py
    python examples/quickstart.py --text "The plot is thin, but I loved every minute of it." --target positive
    python examples/quickstart.py --model FOLDER_OR_HUB_NAME --image cat.png --method game
    python examples/quickstart.py --audio --video
    python examples/quickstart.py --audio call.wav --video FOLDER_OF_FRAMES_OR_GIF

Without arguments it explains a sentence and a handwritten digit on the two small models in ``examples/models``, with
no network; with ``--audio`` and ``--video`` alone, a sound and a clip of which it is known when their class is there.
It prints coloured tokens, and writes ``index.html`` and PNGs into a folder. The method is the one that
is most faithful on most of our data, relevance under rules over five contexts (LRP is claimed by patents in some
countries); ``--method game`` gives Shapley values of attention.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from helpers.moving_digits import FRAMES, SIZE, labelled_clips
from helpers.small_models import (
    digits,
    load_clip_model,
    load_image_model,
    load_sound_model,
    load_text_model,
    writes_text,
)
from helpers.tones import labelled_sounds
from PIL import Image, ImageSequence
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForVideoClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar

from captum_attn import AttentionAttribution, AttnLRP, IntegratedAttnLRP, ShapleyGradAttention, TokenAttributions
from captum_attn.functional import GAMES
from captum_attn.visualization import colours, plot_patches, plot_sound, plot_tokens, plot_video, tokens_html

SENTENCE = "It is slow and a little too long, yet it is one of the most beautiful films of the year."
DIGIT = 13  # which of the held-out digits
DRAWN = 2  # which sound and clip is drawn
OWN = Path()  # what is explained without a file: the one that is drawn

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1.5rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem }
.tokens { line-height: 2.3; font-size: 1.15rem } .token { padding: .2em .4em; border-radius: .3em; white-space: pre }
.note { color: #666; font-size: .9rem; margin: .3rem 0 1rem } img { max-width: 100% }
"""
RELEVANCE = (
    "relevance of the input under the rules of AttnLRP{}, on the scale of the model's score, to which it does not sum: "
    "biases and special tokens have some. A patch is compared with the mean patch: black or silent ones count, too"
)
METHODS: Mapping[str, tuple[type[AttentionAttribution], str]] = {
    "integrated_attnlrp": (IntegratedAttnLRP, RELEVANCE.format(", the mean over five contexts")),
    "attnlrp": (AttnLRP, RELEVANCE.format("")),
    "game": (ShapleyGradAttention, "exact Shapley values of an attention game, shares of what attention contributes"),
}
LEGEND = (
    "Values are {}. Red speaks for the explained class, blue against it. Colours are relative to the strongest token "
    "of each input; hover over a token for its value."
)


@dataclass(frozen=True)
class Explanation:
    """One explained input: its heading, what was found, and how it is shown."""

    title: str
    facts: str
    cost: str
    tokens: list[str]
    values: Tensor
    picture: Path


def main() -> None:
    arguments = parse_arguments()
    disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    explanations = []
    for explain in jobs(arguments):
        explanations.append(explain(arguments))
        show(console, explanations[-1])
    page = arguments.out / "index.html"
    page.write_text(html_page(explanations, METHODS[arguments.method][1]), encoding="utf-8")
    console.print(f"\nWrote {page} with {' and '.join(e.picture.name for e in explanations)}", soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub name or folder of a text or image classifier (default: the shipped ones)")
    parser.add_argument("--text", help="the sentence to explain")
    parser.add_argument("--image", type=Path, help="the image to explain")
    parser.add_argument("--audio", type=Path, nargs="?", const=OWN, help="the sound (.wav) to explain; one of ours")
    parser.add_argument("--video", type=Path, nargs="?", const=OWN, help="folder of frames, or GIF; or one of ours")
    parser.add_argument("--target", help="name or number of the class to explain (default: the predicted one)")
    parser.add_argument("--method", choices=METHODS, help=f"default: {next(iter(METHODS))}, or game with its options")
    parser.add_argument("--game", choices=GAMES, help="what a coalition of tokens is worth (default: incoming)")
    parser.add_argument(
        "--sign", choices=("signed", "rectified"), help="rectified: only what speaks for the class (default: signed)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/quickstart"), help="where to write (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.method is None:
        arguments.method = "game" if arguments.game or arguments.sign else next(iter(METHODS))
    if arguments.method != "game" and (arguments.game or arguments.sign):
        parser.error(f"--game and --sign are for --method game, not for {arguments.method}")
    for name in ("image", "audio", "video"):
        path = getattr(arguments, name)
        if path not in (None, OWN) and not (path.is_file() or (name == "video" and path.is_dir())):
            parser.error(f"--{name} {path}: there is no such file")
    if arguments.out.is_file():
        parser.error(f"--out {arguments.out}: this is a file, not a folder")
    given = (arguments.model, arguments.text, arguments.image, arguments.audio, arguments.video)
    if arguments.target is not None and not any(one is not None for one in given):
        parser.error("--target is a class of one model: say which with --text, --image, --audio, --video or --model")
    if arguments.text is not None and not arguments.text.strip():
        parser.error("--text is empty: there are no words to explain")
    return arguments


def jobs(arguments: argparse.Namespace) -> Sequence[Callable[[argparse.Namespace], Explanation]]:
    """What there is to do: what the model, the text and the image ask for, else both."""
    if arguments.model is not None:
        try:
            config = AutoConfig.from_pretrained(arguments.model)
        except (OSError, ValueError) as error:
            raise SystemExit(f"--model {arguments.model}: {str(error).splitlines()[0]}") from error
        if writes_text(config):
            raise SystemExit(
                f"--model {arguments.model} writes text: python examples/explain_answer.py --model {arguments.model} "
                "explains what it writes"
            )
        if not any("Classification" in name for name in config.architectures or ()):
            raise SystemExit(f"--model {arguments.model} is no classifier, but {config.architectures}")
        wanted = next((name for name, known in READ_BY.items() if config.model_type in known), "text")
        given = [name for name in EXPLAINERS if getattr(arguments, name) is not None]
        if (given != [wanted] and (given or wanted != "text")) or getattr(arguments, wanted) == OWN:
            kind = KINDS[wanted]
            raise SystemExit(f"{arguments.model} classifies {kind}: give one with --{wanted}, and nothing else")
        return [EXPLAINERS[wanted]]
    asked = [explain for name, explain in EXPLAINERS.items() if getattr(arguments, name) is not None]
    return asked or [explain_text, explain_image]


def explain_text(arguments: argparse.Namespace) -> Explanation:
    if arguments.model is None:
        model, tokenizer = load_text_model()
    else:
        model = AutoModelForSequenceClassification.from_pretrained(arguments.model)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text = arguments.text or SENTENCE
    batch = tokenizer(text, return_tensors="pt", truncation=True)
    result, facts, cost = explain(model, explainer_of(arguments, model, tokenizer), batch, arguments.target)
    whole = len(tokenizer(text, verbose=False)["input_ids"])
    if batch["input_ids"].shape[1] < whole:
        facts += f" · the first {batch['input_ids'].shape[1]} of {whole} tokens"
    players = result.players[0]
    tokens = [tokenizer.decode([token]) for token in batch["input_ids"][0][players]]
    values = result.values[0][players]
    picture = arguments.out / "text.png"
    plot_tokens(tokens, values, facts).savefig(picture, dpi=150)
    return Explanation(text, facts, cost, tokens, values, picture)


def explain_image(arguments: argparse.Namespace) -> Explanation:
    if arguments.model is None:
        model, batch = load_image_model(), {"pixel_values": digit_image(arguments.image)}
        title = "A handwritten digit" if arguments.image is None else arguments.image.name
    else:
        model = AutoModelForImageClassification.from_pretrained(arguments.model)
        try:
            processor = AutoImageProcessor.from_pretrained(arguments.model)
        except OSError as error:
            raise SystemExit(f"{arguments.model} has no image processor (preprocessor_config.json)") from error
        batch, title = processor(Image.open(arguments.image).convert("RGB"), return_tensors="pt"), arguments.image.name
    result, facts, cost = explain(model, explainer_of(arguments, model), batch, arguments.target)
    picture = arguments.out / "image.png"
    plot_patches(batch["pixel_values"][0], result.patches[0], facts, grid=result.grid).savefig(picture, dpi=150)
    return Explanation(title, facts, cost, [], result.patches[0].flatten(), picture)


def explain_sound(arguments: argparse.Namespace) -> Explanation:
    """A sound, at the model's own sampling rate."""
    if arguments.model is None:
        model, extractor = load_sound_model()
    else:
        model = AutoModelForAudioClassification.from_pretrained(arguments.model)
        extractor = AutoFeatureExtractor.from_pretrained(arguments.model)
    rate = extractor.sampling_rate
    if arguments.audio == OWN:
        wave, title = labelled_sounds(DRAWN + 1, seed=0)[0][DRAWN].numpy(), "A call in noise, beside a steady tone"
    else:
        wave, title = read_sound(arguments.audio, rate), arguments.audio.name
    batch = extractor(wave, sampling_rate=rate, return_tensors="pt")
    result, facts, cost = explain(model, explainer_of(arguments, model), batch, arguments.target)
    heard = batch["input_values" if "input_values" in batch else "input_features"][0]
    seconds = len(wave) / rate if heard.dim() == 1 else None
    picture = arguments.out / "sound.png"
    plot_sound(heard, result.patches[0], facts, grid=result.grid, seconds=seconds).savefig(picture, dpi=150)
    return Explanation(title, facts, cost, [], result.patches[0].flatten(), picture)


def read_sound(path: Path, rate: int) -> Any:
    """A wave (samples,) of float32, from a WAV file of any sampling rate and number of channels."""
    try:
        own, samples = wavfile.read(path)
    except ValueError as error:
        raise SystemExit(f"--audio {path}: {error}; expected a WAV file") from error
    scale = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max // (2 if samples.dtype == np.uint8 else 1)
    wave = samples.astype(np.float32) / scale - (samples.dtype == np.uint8)
    wave = wave if wave.ndim == 1 else wave.mean(1)
    return resample_poly(wave, rate, own).astype(np.float32)


def explain_video(arguments: argparse.Namespace) -> Explanation:
    """As many frames as the model takes, from all of the video."""
    title, taken = "A blot that is a digit for a while", ""
    if arguments.video != OWN:
        title = arguments.video.name
    if arguments.model is None:
        model = load_clip_model()
        if arguments.video == OWN:
            batch = {"pixel_values": labelled_clips(DRAWN + 1, seed=0, held_out=True)[0][DRAWN:]}
        else:
            frames, taken = read_frames(arguments.video, FRAMES)
            frames = [frame.convert("L").resize((SIZE, SIZE)) for frame in frames]
            batch = {"pixel_values": torch.tensor(np.stack(frames))[None, :, None] / 255}
    else:
        model = AutoModelForVideoClassification.from_pretrained(arguments.model)
        processor = AutoImageProcessor.from_pretrained(arguments.model)
        count = getattr(model.config, "num_frames", None) or model.config.frames_per_clip
        frames, taken = read_frames(arguments.video, count)
        batch = processor([frame.convert("RGB") for frame in frames], return_tensors="pt")
    result, facts, cost = explain(model, explainer_of(arguments, model), batch, arguments.target)
    facts += taken
    (video, *_) = (batch[name][0] for name in ("pixel_values_videos", "pixel_values") if name in batch)
    picture = arguments.out / "video.png"
    plot_video(video, result.patches[0], facts, grid=result.grid).savefig(picture, dpi=150)
    return Explanation(title, facts, cost, [], result.patches[0].flatten(), picture)


def read_frames(path: Path, count: int) -> tuple[list[Image.Image], str]:
    """So many frames of a GIF, or of a folder of images in the order of the numbers in their names, and which ones."""
    try:
        if path.is_dir():
            frames = [Image.open(file) for file in sorted(path.iterdir(), key=by_number)]
        else:
            frames = [frame.copy() for frame in ImageSequence.Iterator(Image.open(path))]
    except (OSError, TypeError) as error:
        raise SystemExit(f"--video {path}: {error}; expected a GIF, or a folder of images") from error
    if not frames:
        raise SystemExit(f"--video {path}: there are no frames")
    places = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    chosen = "" if places == [*range(len(frames))] else f" · frames {places} of {len(frames)}, numbered from 0"
    return [frames[place] for place in places], chosen


def by_number(file: Path) -> list[str | int]:
    """What files are ordered by, 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


EXPLAINERS: Mapping[str, Callable[[argparse.Namespace], Explanation]] = {
    "text": explain_text,
    "image": explain_image,
    "audio": explain_sound,
    "video": explain_video,
}
KINDS = {"text": "text", "image": "images", "audio": "sounds", "video": "videos"}
READ_BY: Mapping[str, Mapping[str, Any]] = {
    "image": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio": MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "video": MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
}
"""The families of models that read what is no text."""


def digit_image(path: Path | None) -> Tensor:
    """Pixels (1, 1, 8, 8) in [0, 1]: a held-out digit, or an image file made as small and grey as those."""
    if path is None:
        _, _, images, _ = digits()
        return images[DIGIT : DIGIT + 1]
    grey = Image.open(path).convert("L").resize((8, 8))
    return torch.tensor(list(grey.tobytes())).view(1, 1, 8, 8) / 255


def explainer_of(arguments: argparse.Namespace, model: Any, tokenizer: Any = None) -> AttentionAttribution:
    """The method that was asked for."""
    options = {name: getattr(arguments, name) for name in ("game", "sign")}
    method, _ = METHODS[arguments.method]
    return method(model, tokenizer=tokenizer, **{name: option for name, option in options.items() if option})


def explain(
    model: Any, explainer: AttentionAttribution, batch: Mapping[str, Tensor], target: str | None
) -> tuple[TokenAttributions, str, str]:
    """The attributions, what was explained, and how long it took."""
    model.eval()
    labels = model.config.id2label
    index = None if target is None else class_index(labels, target)
    with torch.no_grad():
        _, forward = timed(lambda: model(**batch))
    result, explanation = timed(lambda: explainer.attribute_tokens(batch, target=index))
    probabilities = result.output[0].softmax(-1)
    predicted, explained = int(probabilities.argmax()), int(result.targets[0, 0])
    facts = f"predicted {labels[predicted]} ({probabilities[predicted]:.1%})"
    if explained != predicted:
        facts += f", explained {labels[explained]} ({probabilities[explained]:.1%})"
    facts += f" · {type(explainer).__name__}"
    if isinstance(explainer, ShapleyGradAttention):
        facts += f", {explainer.game}, {explainer._variant}"
    return result, facts, f"explained in {explanation:.0f} ms; a forward pass alone takes {forward:.0f} ms"


def class_index(labels: Mapping[int, str], target: str) -> int:
    """The number of a class given by name or number."""
    by_name = {label.lower(): index for index, label in labels.items()}
    index = by_name.get(target.lower(), int(target) if target.isdecimal() else -1)
    if index not in labels:
        raise SystemExit(f"--target {target!r} is no class of this model: expected one of {', '.join(labels.values())}")
    return index


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and its median milliseconds over up to five more calls, fewer if they take long."""
    result = call()
    times: list[float] = []
    while len(times) < 5 and sum(times) < 1000:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return result, median(times)


def show(console: Console, explanation: Explanation) -> None:
    console.print()
    console.print(Text(explanation.title, style="bold"))
    console.print(f"{explanation.facts}\n{explanation.cost}", style="dim", highlight=False)
    if not explanation.tokens:
        return
    line, table = Text(), Table("token", "value", box=None)
    for token, value, colour in zip(explanation.tokens, explanation.values, colours(explanation.values), strict=True):
        style = f"black on rgb({colour[0]},{colour[1]},{colour[2]})"
        line.append(f" {token} ", style=style)
        table.add_row(Text(token), Text(f"{value:+.3g}"))
    console.print(line)
    console.print(table)


def html_page(explanations: list[Explanation], method: str) -> str:
    parts = []
    for explanation in explanations:
        coloured = tokens_html(explanation.tokens, explanation.values) if explanation.tokens else ""
        note = escape(f"{explanation.facts} · {explanation.cost}")
        parts.append(
            f"<h2>{escape(explanation.title)}</h2>\n<p class='note'>{note}</p>\n"
            f"<p class='tokens'>{coloured}</p>\n<img src='{explanation.picture.name}' alt='attributions'>"
        )
    body, legend = "\n".join(parts), escape(LEGEND.format(method))
    return (
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>What made the model decide</title>"
        f"<style>{STYLE}</style>\n<h1>What made the model decide</h1>\n<p class='note'>{legend}</p>\n{body}\n</html>\n"
    )


if __name__ == "__main__":
    main()
