"""What the commands do, with a model that is loaded."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captum_attn
from captum_attn.bench import MEDIA
from captum_attn.command.loading import LoadedModel
from captum_attn.exploration import Exploration, explore

if TYPE_CHECKING:
    from captum_attn.generation import ExplainedResponse
    from captum_attn.metrics import Evaluation

_WHAT = {"text": "texts", "image": "images", "audio": "sounds", "video": "videos"}


def explain_input(
    loaded: LoadedModel,
    given: Mapping[str, Any],
    target: str | None = None,
    methods: Sequence[str] | None = None,
    words: bool = True,
) -> Exploration:
    """Inputs of a classifier, as ``captum_attn.visualization.explore`` explains them.

    Args:
        loaded: the classifier.
        given: by kind, texts or paths; of one kind.
        target: a class, by name or number; None for the most probable ones.
        methods: names of classes of ``captum_attn``; None for those of ``explore``.
        words: whether pieces of words are shown as one.
    """
    if loaded.kind == "prompt":
        raise ValueError("the model writes text: give --prompt, to explain an answer")
    common = reading(loaded)
    chosen = methods and {name: getattr(captum_attn, name)(loaded.model, **common) for name in methods}
    targets: Any = 3 if target is None else [_class_of(loaded, target)]
    return explore(loaded.model, _inputs(loaded, given), chosen or None, **common, targets=targets, words=words)


def explain_answer(loaded: LoadedModel, prompt: str, response: str | None) -> ExplainedResponse:
    """An answer, given or written by the model; under its chat template, where it has one."""
    from captum_attn.generation import GenerationAttention

    if loaded.kind != "prompt":
        raise ValueError(f"the model classifies {_WHAT[loaded.kind]} and writes nothing: give --{loaded.kind}")
    chat = getattr(loaded.processor, "chat_template", None)
    asked: Any = [{"role": "user", "content": prompt}] if chat else prompt
    writing: dict[str, Any] = {} if response is not None else {"max_new_tokens": 64, "do_sample": False}
    return GenerationAttention(loaded.model, loaded.processor).explain(asked, response, **writing)


def evaluate_methods(
    loaded: LoadedModel, data: Path, methods: Sequence[str], limit: int, column: str | None = None
) -> Evaluation:
    """How faithful methods are, on the first examples of a file or a folder."""
    from captum_attn.bench import read_together
    from captum_attn.metrics import evaluate

    common = reading(loaded)
    examples, labels = _examples(loaded, data, limit, column)
    chosen = {name: getattr(captum_attn, name)(loaded.model, **common) for name in methods}
    if loaded.kind == "text":
        return evaluate(loaded.model, examples, chosen, tokenizer=loaded.processor, labels=labels)
    images = read_together(loaded.model, loaded.processor, examples).features
    return evaluate(loaded.model, images, chosen)


def inspect_model(loaded: LoadedModel, given: Mapping[str, Any], target: str | None) -> Any:
    """What is seen of a model, with an input."""
    inputs = _inputs(loaded, given)
    return captum_attn.inspect(loaded.model, inputs, _class_of(loaded, target) if target else None, **reading(loaded))


def reading(loaded: LoadedModel) -> dict[str, Any]:
    """What explainers are told of a model's inputs."""
    return {"tokenizer" if loaded.kind in ("text", "prompt") else "processor": loaded.processor}


def _inputs(loaded: LoadedModel, given: Mapping[str, Any]) -> Any:
    """What of the given the model reads; ``ValueError`` where that is nothing, or not all."""
    named = [kind for kind, own in given.items() if own]
    kind = "text" if loaded.kind == "prompt" else loaded.kind
    if named != [kind]:
        does = "reads" if loaded.kind == "prompt" else "classifies"
        raise ValueError(f"the model {does} {_WHAT[kind]}: give --{kind}{', and nothing else' * bool(named)}")
    own = given[kind]
    if kind == "text":
        if not all(text.strip() for text in own):
            raise ValueError("--text is empty: there are no words to explain")
        return own
    missing = [str(path) for path in own if not path.exists()]
    if missing:
        raise ValueError(f"--{kind} {missing[0]}: there is no such file")
    return _clip(loaded, own[0]) if kind == "video" else own


def _clip(loaded: LoadedModel, path: Path) -> Any:
    """As many frames as the model takes, from all of a GIF, or of a folder of images in the order of their numbers."""
    from PIL import Image, ImageSequence

    config = loaded.model.config
    count = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    if count is None:
        raise ValueError("the model's configuration does not say how many frames it takes: explain it in Python")
    if path.is_dir():
        files = sorted((one for one in path.iterdir() if one.suffix.lower() in MEDIA), key=_by_number)
        frames = [_opened(files[place]) for place in _spread(len(files), count, path)]
    else:
        with Image.open(path) as clip:
            chosen = _spread(getattr(clip, "n_frames", 1), count, path)
            taken = {
                place: frame.convert("RGB")
                for place, frame in enumerate(ImageSequence.Iterator(clip))
                if place in chosen
            }
        frames = [taken[place] for place in chosen]
    return loaded.processor(frames, return_tensors="pt")


def _spread(length: int, count: int, path: Path) -> list[int]:
    """So many of the frames, evenly from the first to the last."""
    if not length:
        raise ValueError(f"--video {path}: there are no frames")
    return [round(place * (length - 1) / max(count - 1, 1)) for place in range(count)]


def _opened(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def _by_number(file: Path) -> list[str | int]:
    """What files are ordered by, 2.png before 10.png."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _examples(loaded: LoadedModel, data: Path, limit: int, column: str | None) -> tuple[list[Any], list[Any] | None]:
    """Texts of a file, or images of a folder, and their labels, where these are known."""
    import pandas as pd

    if not data.exists():
        raise ValueError(f"--data {data}: there is no such file or folder")
    if loaded.kind == "image":
        files = sorted(one for one in data.rglob("*") if one.suffix.lower() in MEDIA)[:limit]
        if not files:
            raise ValueError(f"--data {data}: there are no images ({', '.join(MEDIA)})")
        return list(files), None
    if loaded.kind != "text":
        raise ValueError(
            "evaluate takes classifiers of texts or images; in Python, captum_attn.metrics.evaluate takes others"
        )
    if data.suffix == ".txt":
        lines = data.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip()][:limit], None
    form: Any = {"sep": "\t", "quoting": csv.QUOTE_NONE} if data.suffix == ".tsv" else {}
    table = pd.read_csv(data, nrows=limit, dtype=str, keep_default_na=False, **form)
    others = [name for name in table if name != "label"]
    usual = [name for name in ("text", "sentence", "review") if name in others]
    chosen = column or next(iter(usual or others[: len(others) == 1]), None)
    if chosen not in table:
        raise ValueError(f"--data {data} has the columns {', '.join(table)}: say which holds the texts with --column")
    labels = [_class_of(loaded, label) for label in table.label] if "label" in table else None
    return table[chosen].tolist(), labels


def _class_of(loaded: LoadedModel, target: str) -> str | int:
    """A class by name, or else, if it is a number, by that."""
    names = map(str, (loaded.model.config.id2label or {}).values())
    return target if target in names or not target.lstrip("-").isdecimal() else int(target)
