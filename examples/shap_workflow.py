"""SHAP's plots of a text and an image classifier, from exact attention-game values.

    python examples/shap_workflow.py
    python examples/shap_workflow.py --texts reviews.tsv --model FOLDER_OR_HUB_NAME --output positive

Explains three hundred short reviews and eight handwritten digits with the two small models in ``examples/models``, with
no network, and writes one file, ``index.html``, with a text plot, a waterfall, a bar chart, a beeswarm, a heat map and
an image plot. Without ``--texts``, the reviews are made up from phrases.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import shap
import torch
from helpers.reviews import made_up_reviews, read_texts
from helpers.small_models import TEXT_MODEL, digits, load_image_model
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from captum_attn.pages import as_source
from shap_attn import AttentionExplainer, plots, pool

SENTENCES = 300
SHOWN = (
    "A little slow, yet it is one of the most beautiful films of the year.",
    "Unwatchable: I didn't like a single minute of it.",
    "The plot is thin, but the cast is a delight!",
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 3rem auto; padding: 0 1.5rem; color: #222 }
h2 { font-size: 1.15rem; margin: 3rem 0 .3rem } img { max-width: 100% } .note { color: #666 }
"""


def main() -> None:
    mpl.use("Agg")
    disable_progress_bar()
    arguments = parse_arguments()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    sections = [*text_sections(arguments), image_section()]
    page = "".join(f"<h2>{title}</h2>\n<p class='note'>{note}</p>\n{body}\n" for title, note, body in sections)
    (out / "index.html").write_text(
        f"<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>SHAP plots</title><style>{STYLE}</style>\n"
        f"<h1>Attention-game values in SHAP's plots</h1>\n{page}</html>\n",
        encoding="utf-8",
    )
    print(f"Wrote {out / 'index.html'}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(TEXT_MODEL), help="folder or hub name of a text classifier")
    parser.add_argument("--texts", type=Path, help="a file with a text in each line, up to a tab; the first 300 count")
    parser.add_argument("--output", help="the class that the plots are about (default: the last one)")
    parser.add_argument("--out", type=Path, default=Path("out/shap"), help="where to write (default: %(default)s)")
    return parser.parse_args()


def text_sections(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    """A title, a note and HTML for each plot of texts."""
    pipe = pipeline("text-classification", model=arguments.model, dtype=torch.float32)
    explainer = AttentionExplainer(pipe, words=True)
    output = arguments.output or explainer.output_names[-1]
    if output not in explainer.output_names:
        raise SystemExit(f"--output {output}: there is no such class, expected one of {explainer.output_names}")
    texts = read_texts(arguments.texts)[:SENTENCES] if arguments.texts else made_up_reviews(SENTENCES)
    start = time.perf_counter()
    many = explainer(texts)
    seconds = time.perf_counter() - start
    print(f"Explained {len(texts)} texts, {len(explainer.output_names)} classes each, in {seconds:.1f} s")
    few = explainer(texts[: len(SHOWN)] if arguments.texts else SHOWN)
    words = pool(many, lowercase=True, min_count=5)[:, :, output]
    return [
        ("A few texts", "hover over a class, click a word", plots.text(few, display=False) or ""),
        (
            "One text, word by word",
            f"for {output!r}",
            figure("waterfall", lambda: plots.waterfall(few[0, :, output], max_display=12, show=False)),
        ),
        (
            "Which words matter",
            f"{len(texts)} texts, mean magnitude for {output!r}",
            figure("bar", lambda: plots.bar(words, max_display=16, show=False)),
        ),
        (
            "Which way, and how often",
            f"each dot is a text: to the right of 0, the word raises the score of {output!r}; red where it occurs",
            figure("beeswarm", lambda: plots.beeswarm(words, max_display=16, show=False)),
        ),
        (
            "Text by text",
            f"red raises the score of {output!r}, blue lowers it",
            figure("heatmap", lambda: plots.heatmap(words, max_display=16, show=False)),
        ),
    ]


def image_section() -> tuple[str, str, str]:
    """The same for images."""
    _, _, images, _ = digits()
    explainer = AttentionExplainer(load_image_model(), outputs=shap.Explanation.argsort.flip[:3])
    explanation = explainer(images[:4])
    picture = figure("image", lambda: plots.image(explanation, aspect=0.4, show=False))
    return "Four digits", "the three classes of the highest score, from left to right", picture


def figure(name: str, draw: Callable[[], object]) -> str:
    """Draw a figure; the HTML that shows it and holds it."""
    plt.close("all")
    draw()
    buffer = BytesIO()
    plt.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    plt.close("all")
    return f"<img src='{as_source(buffer.getvalue())}' alt='{name} plot'>"


if __name__ == "__main__":
    main()
