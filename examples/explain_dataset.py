"""Explain a whole data set on Lightning's engine, and read what came of it.

    python examples/explain_dataset.py
    python examples/explain_dataset.py --data reviews.tsv --model FOLDER_OR_HUB_NAME --devices 2 --out out/reviews

Explains the predicted class of each text, on one process or two, and writes token scores to ``attributions`` in the
folder ``--out`` as they come: stop the script where you like, and the same command goes on from there. Then it prints
the most influential words of each class and draws them as ``words_CLASS.png``. Without ``--data``, the texts are made
up from phrases; with the small model in ``examples/models``, there is no network.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import shap
from helpers.small_models import TEXT_MODEL
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from captum_attn.command.loading import load
from captum_attn.core.encoding import length_limit
from lightning_callbacks import AttributionModule, AttributionWriter, read_attributions
from shap_attn import explanation_from_frame, plots, pool

Row = dict[str, Any]
SUBJECTS = ("the film", "this movie", "the story", "the cast", "the ending", "every scene")
VERDICTS = (
    "is moving",
    "is a delight",
    "is funny and fresh",
    "is not good",
    "is dull",
    "is a mess",
    "is painfully slow",
)
WORDS = 10


def main() -> None:
    mpl.use("Agg")
    disable_progress_bar()
    options = parse_arguments()
    rows = read_rows(options.data) if options.data else made_up_rows()
    folder = options.out / "attributions"
    start = time.perf_counter()
    trainer = explain(
        rows, folder, model_name=options.model, devices=options.devices, batch_size=options.batch_size, progress=True
    )
    if not trainer.is_global_zero:
        return
    frame = read_attributions(folder, complete=True)
    print(f"Explained {len(frame)} texts in {time.perf_counter() - start:.1f} s: {folder}")
    for name, part in frame.groupby("target_name"):
        words = pool(explanation_from_frame(part), lowercase=True)
        print(f"\nWords behind {name!r} ({len(part)} texts)\n{word_table(words).to_string(index=False)}")
        draw(words, options.out / f"words_{name}.png")


def explain(
    rows: list[Row], folder: Path, *, model_name: str, devices: int, batch_size: int, progress: bool = False
) -> Trainer:
    """Explain texts ``{"text": ..., "label": ...}``, or those that the folder does not hold yet."""
    loaded = load(model_name)
    model, tokenizer = loaded.model, loaded.processor
    limit = length_limit(tokenizer, model, None)

    def collated(batch: list[Row]) -> Row:
        texts = [row["text"] for row in batch]
        encoded = tokenizer(texts, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt")
        return {**encoded, "label": [row["label"] for row in batch]}

    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=AttributionWriter(folder),
        logger=False,
        enable_progress_bar=progress,
    )
    trainer.predict(
        AttributionModule(model, processor=tokenizer),
        DataLoader(rows, batch_size=batch_size, collate_fn=collated),  # type: ignore[arg-type]
        return_predictions=False,
    )
    return trainer


def word_table(words: shap.Explanation, count: int = WORDS) -> pd.DataFrame:
    """The strongest words: in how many texts they are, what they are worth there, and their mean magnitude in all."""
    values, present = words.values, words.data > 0
    order = abs(values).mean(0).argsort(kind="stable")[::-1][:count]
    return pd.DataFrame(
        {
            "word": [words.feature_names[place] for place in order],
            "texts": present.sum(0)[order],
            "mean value": (values.sum(0) / present.sum(0))[order].round(4),
            "strength": abs(values).mean(0)[order].round(5),
        }
    )


def draw(words: shap.Explanation, path: Path) -> None:
    """SHAP's bar plot of the strongest words."""
    plt.close("all")
    plots.bar(words, max_display=WORDS + 1, show=False)
    plt.savefig(path, dpi=130, bbox_inches="tight")
    plt.close("all")


def read_rows(path: Path) -> list[Row]:
    """Texts and, where there are any, labels: of JSON lines, of a table with tabs, or one text in each line."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in lines]
    elif path.suffix == ".tsv":
        records = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    else:
        records = [{"text": line} for line in lines]
    return [{"text": text_of(record, path), "label": record.get("label")} for record in records]


def text_of(record: Row, path: Path) -> str:
    for name in ("text", "sentence"):
        if isinstance(record.get(name), str):
            return record[name].strip()  # type: ignore[no-any-return]
    raise SystemExit(f"{path}: expected a column 'text' or 'sentence', got {list(record)}")


def made_up_rows() -> list[Row]:
    """Short reviews, always the same ones."""
    return [{"text": f"{subject} {verdict} .", "label": None} for subject, verdict in product(SUBJECTS, VERDICTS)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="texts: .jsonl, .tsv with a header, or one in each line")
    parser.add_argument("--model", default=str(TEXT_MODEL), help="folder or hub name of a text classifier")
    parser.add_argument("--devices", type=int, default=1, choices=(1, 2), help="processes (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts at a time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/dataset"), help="where to write (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
