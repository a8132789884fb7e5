"""Which words of a sentence, and which patches of an image, made a transformer decide?

    python examples/quickstart.py
    python examples/quickstart.py --text "The plot is thin, but I loved every minute of it." --target positive
    python examples/quickstart.py --model FOLDER_OR_HUB_NAME --image cat.png --method AttnLRP

Without arguments it explains a sentence and a picture on two small models of ``examples/models``, with no network, and
writes one page. With arguments it is the command ``captum-attn explain``, which ``--help`` describes; without a
``--model``, it takes the one of ours that reads what is given.
"""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.small_models import ANSWER_MODEL, SOUND_MODEL, TEXT_MODEL, TEXTURE_MODEL
from helpers.textures import striped_fish

from captum_attn.command import app
from captum_attn.command.explaining import explain_input
from captum_attn.command.loading import load
from captum_attn.command.terminal import print_explored
from captum_attn.exploration import together
from captum_attn.pages import write_page

SENTENCE = "It is slow and a little too long, yet it is one of the most beautiful films of the year."
OUT = Path("out/quickstart")
OWN = {"--text": TEXT_MODEL, "--image": TEXTURE_MODEL, "--audio": SOUND_MODEL, "--prompt": ANSWER_MODEL}


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments != ["--out", *arguments[1:2]]:
        app(["explain", *defaults(arguments), *arguments], prog_name="quickstart.py")
    folder = Path(arguments[1]) if arguments else OUT
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "fish.png"
    striped_fish().save(picture)
    explored = {
        "A sentence": explain_input(load(str(TEXT_MODEL)), {"text": [SENTENCE]}),
        "A striped fish": explain_input(load(str(TEXTURE_MODEL)), {"image": [picture]}),
    }
    for title, found in explored.items():
        print_explored(found, title)
    print(f"\nWrote {write_page(together(explored), folder / 'index.html')}: open it in a browser, and click a word")


def defaults(arguments: list[str]) -> list[str]:
    """What is not said: the model of ours that reads what is given, and where to write."""
    given = next((OWN[one] for one in arguments if one in OWN), None)
    model = ["--model", str(given)] if given and "--model" not in arguments else []
    return [*model, *([] if "--out" in arguments else ["--out", str(OUT / "index.html")])]


if __name__ == "__main__":
    main()
