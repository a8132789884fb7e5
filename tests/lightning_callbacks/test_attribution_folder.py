"""The folder of attributions: whole files or none, nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest

from lightning_callbacks.attribution_folder import AttributionFolder, read_attributions

SETTINGS = {"model": {"fingerprint": "f00"}, "target": None}


def table(indices, dataloader=0, value=0.5):
    """Rows whose scores say which sample they are of."""
    return pa.table(
        {
            "dataloader": [dataloader] * len(indices),
            "index": list(indices),
            "scores": [[float(index), value] for index in indices],
        }
    )


def written(path, *parts, samples=(6, 2)):
    """A folder with such (dataloader, indices) parts."""
    folder = AttributionFolder(path)
    run = folder.begin(SETTINGS, samples)
    for batch, (dataloader, indices) in enumerate(parts):
        folder.write(table(indices, dataloader), run=run, rank=batch % 2, dataloader=dataloader, batch=batch)
    return folder


@pytest.fixture
def whole(tmp_path):
    return written(tmp_path / "found", (1, [1, 0]), (0, [5, 1]), (0, [0, 2]), (0, [4, 3]))


def test_files_are_merged_and_sorted(whole):
    frame = read_attributions(whole.path, complete=True)
    assert frame["dataloader"].tolist() == [0] * 6 + [1] * 2
    assert frame["index"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [scores[0] for scores in frame["scores"]] == frame["index"].tolist()
    assert list(read_attributions(whole.path, columns=[]).columns) == ["dataloader", "index"]


def test_samples_drawn_twice_are_there_once(tmp_path):
    folder = written(tmp_path, (0, [0, 1]), (0, [1, 2]), (0, [5, 4, 3, 0]), (1, [0, 1]))
    assert read_attributions(folder.path)["index"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_other_libraries_read_it(whole):
    frame = pd.read_parquet(whole.path).sort_values(["dataloader", "index"], ignore_index=True)
    pd.testing.assert_frame_equal(frame, read_attributions(whole.path))
    assert pyarrow.dataset.dataset(whole.path).count_rows() == 8


@pytest.mark.parametrize("where", ["data_files", "data_dir"])
def test_datasets_reads_it(whole, where, tmp_path):
    datasets = pytest.importorskip("datasets")
    place = {"data_files": f"{whole.path}/*.parquet", "data_dir": str(whole.path)}[where]
    loaded = datasets.load_dataset("parquet", **{where: place}, split="train", cache_dir=tmp_path / "cache")
    assert sorted(zip(loaded["dataloader"], loaded["index"], strict=True))[-1] == (1, 1)
    assert len(loaded) == 8


def test_what_is_done_is_known_after_a_run_was_cut_short(tmp_path):
    written(tmp_path, (0, [5, 1]), (1, [0]))
    folder = AttributionFolder(tmp_path)
    folder.begin(SETTINGS, [6, 2])
    assert [done.tolist() for done in folder.done()] == [[False, True, False, False, False, True], [True, False]]


def test_a_file_that_was_not_finished_does_not_count_and_goes(tmp_path, monkeypatch):
    folder = written(tmp_path, (0, [0]))
    run = folder.begin(SETTINGS, [6, 2])

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.write(table([1]), run=run, rank=0, dataloader=0, batch=1)
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert pd.read_parquet(tmp_path)["index"].tolist() == [0]
    folder.begin(SETTINGS, [6, 2])
    assert not list(tmp_path.glob(".*.tmp"))
    assert folder.done()[0].sum() == 1


def test_a_run_stops_once_another_one_has_begun(tmp_path):
    folder = AttributionFolder(tmp_path)
    first, second = folder.begin(SETTINGS, [6]), folder.begin(SETTINGS, [6])
    with pytest.raises(RuntimeError, match="another run has begun"):
        folder.write(table([0]), run=first, rank=0, dataloader=0, batch=0)
    folder.write(table([0]), run=second, rank=0, dataloader=0, batch=0)
    assert folder.done()[0].sum() == 1


@pytest.mark.parametrize(
    ("settings", "samples", "message"),
    [
        ({"model": {"fingerprint": "bad"}, "target": None}, [6, 2], "model.fingerprint: 'f00' there, 'bad' here"),
        ({**SETTINGS, "target": 1}, [6, 2], "target: None there, 1 here"),
        ({**SETTINGS, "new": 1}, [6, 2], "new: None there, 1 here"),
        (SETTINGS, [7, 2], r"samples: \[6, 2\] there, \[7, 2\] here"),
    ],
)
def test_other_settings_are_refused_by_name(whole, settings, samples, message):
    with pytest.raises(ValueError, match=f"begun with other settings.*{message}"):
        whole.begin(settings, samples)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".DS_Store").write_text("the system's")
    with pytest.raises(ValueError, match=r"holds notes.txt, which belongs to no run"):
        AttributionFolder(tmp_path).begin(SETTINGS, [6])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="is no folder of attributions"):
        read_attributions(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder of attributions"):
        read_attributions(tmp_path / "nowhere")


def test_foreign_files_among_the_others_are_named(whole):
    (whole.path / "other.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds other.parquet, which no AttributionWriter wrote"):
        read_attributions(whole.path)


def test_damaged_files_are_named(whole):
    path = sorted(whole.path.glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*delete it"):
        read_attributions(whole.path)
    path.unlink()
    with pytest.warns(UserWarning, match="2 of 8 samples .25.0%. are missing"):
        read_attributions(whole.path)


def test_samples_of_other_data_are_refused(whole):
    manifest = whole.path / ".manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "samples": [3, 2]}))
    with pytest.raises(ValueError, match=r"holds samples that the data of .* do not have"):
        read_attributions(whole.path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}'])
def test_a_manifest_that_is_not_ours(whole, content):
    (whole.path / ".manifest.json").write_text(content)
    with pytest.raises(ValueError, match="is damaged, or of another version"):
        read_attributions(whole.path)


def test_missing_samples_are_an_error_where_all_are_wanted(tmp_path):
    folder = written(tmp_path, (0, [0]))
    with pytest.raises(ValueError, match=r"7 of 8 samples .* are missing"):
        read_attributions(folder.path, complete=True)


def test_columns_that_are_not_there(whole):
    with pytest.raises(ValueError, match=r"no columns \['score'\]: expected some of .*'scores'"):
        read_attributions(whole.path, columns=["score"])


def test_an_empty_folder_has_nothing_to_read(tmp_path):
    folder = written(tmp_path)
    with pytest.warns(UserWarning, match="100.0%"), pytest.raises(ValueError, match="holds no attributions yet"):
        read_attributions(folder.path)
