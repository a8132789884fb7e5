"""Pictures of our pages in a browser, for the documents: CHROMIUM=$(.ci/browser) python .github/draw_pictures.py"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from helpers.small_models import ANSWER_MODEL, TEXT_MODEL, TEXTURE_MODEL  # noqa: E402
from helpers.textures import striped_fish  # noqa: E402
from quickstart import SENTENCE  # noqa: E402

from captum_attn.command.explaining import explain_answer, explain_input  # noqa: E402
from captum_attn.command.loading import load  # noqa: E402

PICTURES = ROOT / "examples" / "pictures"
STORY = (
    "The lighthouse of Dunmore was painted green in the spring of last year.\n\n"
    "The museum of Carrow is closed on Monday.\n\nThe harbour of Ashby is made of stone.\n\n"
    "Question: What colour was the lighthouse of Dunmore painted?"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=os.environ.get("CHROMIUM"),
            args=["--no-sandbox", "--disable-gpu", "--single-process", "--no-zygote"],
        )
        page = browser.new_page(viewport={"width": 860, "height": 1400}, device_scale_factor=1.4)

        page.goto(explain_input(load(str(TEXT_MODEL)), {"text": [SENTENCE]}).to_html(f"{folder}/text.html").as_uri())
        page.locator(".pick", has_text="slow").click()
        page.mouse.move(1, 1)
        picture(page, "page.png", ".lists")

        fish = Path(folder) / "fish.png"
        striped_fish().save(fish)
        page.goto(explain_input(load(str(TEXTURE_MODEL)), {"image": [fish]}).to_html(f"{folder}/image.html").as_uri())
        picture(page, "image_page.png", ".key")

        page.goto(explain_answer(load(str(ANSWER_MODEL)), STORY, None).to_html(f"{folder}/answer.html").as_uri())
        page.locator(".pick", has_text="green").click()
        page.mouse.move(1, 1)
        picture(page, "answer_page.png", "#prompt")
        browser.close()


def picture(page: Page, name: str, until: str) -> None:
    """What is seen down to an element."""
    box = page.locator(until).first.bounding_box()
    assert box is not None
    page.screenshot(path=PICTURES / name, clip={"x": 0, "y": 0, "width": 860, "height": box["y"] + box["height"] + 16})


if __name__ == "__main__":
    main()
