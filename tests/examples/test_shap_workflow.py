"""The SHAP example and the benchmarks as a user runs them, without a network."""

from __future__ import annotations

from helpers.reviews import made_up_reviews
from pages import pictures_of
from scripts import run


def test_the_workflow_writes_a_page_with_plots(tmp_path):
    (tmp_path / "texts.tsv").write_text("a good film\t1\nnot a good film\t0\n\nso dull\n" * 5)
    printed = run("shap_workflow.py", "--texts", "texts.tsv", folder=tmp_path)
    assert "Explained 15 texts, 2 classes each" in printed
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["index.html"]
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    pictures = pictures_of(page)
    assert {*pictures} == {f"{name} plot" for name in ("bar", "beeswarm", "heatmap", "image", "waterfall")}
    assert "np.float64" not in page
    assert "dull" in page
    assert all(picture.size[0] > 500 for picture in pictures.values())


def test_made_up_reviews_are_always_the_same():
    reviews = made_up_reviews()
    assert len(reviews) == 300
    assert reviews == made_up_reviews()
    assert len(set(reviews)) > 200


def test_the_speed_benchmark(tmp_path):
    printed = run("benchmarks/shap_speed.py", "--tokens", "8", "--count", "1", folder=tmp_path)
    rows = {cells[2].strip(): cells for line in printed.splitlines() if len(cells := line.split("|")) == 7}
    assert rows["AttentionExplainer"][4].strip() == "1"
    assert int(rows["shap.Explainer"][4]) > 20
    assert {path.suffix for path in (tmp_path / "found").iterdir()} == {".md", ".png"}


def test_the_budget_benchmark(tmp_path):
    printed = run("benchmarks/shap_budget.py", "--count", "1", folder=tmp_path)
    assert "AttentionText" in printed
    assert "| cls | 1.00 | 1.00 |" in printed
