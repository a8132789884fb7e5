"""Examples in every form, and those that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES
from helpers.small_models import load_text_model
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from captum_attn.bench import Reader
from captum_attn.concepts import UnreadableError


def to_pixels(pictures):
    """What an image processor does: a mapping of tensors from a list of PIL images."""
    arrays = [np.asarray(picture.resize((12, 12)), dtype=np.float32) / 255 for picture in pictures]
    return {"pixel_values": torch.as_tensor(np.stack(arrays)).movedim(-1, 1)}


@pytest.fixture
def vit():
    return FAMILIES["vit"].build()


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (20, 16, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.fixture
def paths(pictures, tmp_path):
    for place, picture in enumerate(pictures):
        picture.save(tmp_path / f"{place}.png")
    return sorted(tmp_path.glob("*.png"))


def pixels(batches):
    return torch.cat([batch.features for batch in batches])


def test_pictures_and_their_paths_are_the_same(vit, pictures, paths):
    reader = Reader(vit, to_pixels, batch_size=2)
    expected = to_pixels(pictures)["pixel_values"]
    for given in (pictures, paths, [str(path) for path in paths], iter(paths), DataLoader(paths, collate_fn=list)):
        batches = reader.read(given, "inputs")
        assert torch.equal(pixels(batches), expected)
        assert max(map(len, batches)) <= 2


def test_pictures_are_turned_as_their_metadata_say(vit, tmp_path):
    lying = Image.fromarray(np.arange(432, dtype=np.uint8).reshape(12, 12, 3))
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    lying.save(tmp_path / "lying.png", exif=exif)
    reader = Reader(vit, to_pixels, batch_size=2)
    (of_path,), (of_image,), (upright,) = (
        reader.read([given], "inputs")
        for given in (tmp_path / "lying.png", Image.open(tmp_path / "lying.png"), lying.rotate(-90))
    )
    assert torch.equal(of_path.features, upright.features)
    assert torch.equal(of_image.features, upright.features)


def test_pictures_that_cannot_be_read_are_named(vit, paths):
    paths[1].write_text("no picture")
    paths[3].unlink()
    message = (
        r"concept 'cats': 2 could not be read: number 1 \(Unidentified.*; number 3 \(FileNotFound.*on_error='skip'"
    )
    with pytest.raises(UnreadableError, match=message):
        Reader(vit, to_pixels, 2).read(paths, "concept 'cats'")


def test_pictures_that_cannot_be_read_are_left_out_when_asked(vit, pictures, paths):
    paths[1].write_text("no picture")
    with pytest.warns(UserWarning, match=r"concept 'cats': 1 could not be read: number 1 .*Left out"):
        batches = Reader(vit, to_pixels, 2, "skip").read(paths, "concept 'cats'")
    assert torch.equal(pixels(batches), to_pixels([*pictures[:1], *pictures[2:]])["pixel_values"])


def test_what_a_processor_refuses_is_named_among_others(vit, pictures):
    def picky(given):
        if any(picture.size[0] > 16 for picture in given):
            raise ValueError("too wide")
        return to_pixels(given)

    mixed = [*pictures[:3], pictures[3].resize((40, 10)), pictures[4]]
    with pytest.raises(UnreadableError, match=r"1 could not be read: number 3 \(ValueError: too wide\)"):
        Reader(vit, picky, 5).read(mixed, "inputs")
    with pytest.warns(UserWarning, match="number 3"):
        batches = Reader(vit, picky, 5, "skip").read(mixed, "inputs")
    assert len(pixels(batches)) == 4


class Broken(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise OSError("disk on fire")
        return torch.zeros(3, 12, 12)


def test_loaders_that_fail_are_named_and_go_on_when_asked(vit):
    with pytest.raises(UnreadableError, match=r"could not be read: number 2 \(OSError: disk on fire\)"):
        Reader(vit, None, 4).read(DataLoader(Broken(), batch_size=2), "inputs")
    with pytest.warns(UserWarning, match="number 2"):
        assert len(pixels(Reader(vit, None, 4, "skip").read(DataLoader(Broken(), batch_size=2), "inputs"))) == 4


def test_texts_are_cut_to_what_the_model_reads_and_padded_batch_by_batch():
    model, tokenizer = load_text_model()
    texts = ["good", "so very very good", "word " * 500]
    with pytest.warns(UserWarning, match="inputs: 1 of . texts are longer than 128 tokens"):
        batches = Reader(model, tokenizer, 2).read(texts, "inputs")
    assert [tuple(batch.features.shape) for batch in batches] == [(2, 6), (1, 128)]
    assert batches[0].keywords["attention_mask"].sum(1).tolist() == [3, 6]


def test_missing_values_are_named():
    model, tokenizer = load_text_model()
    with pytest.raises(UnreadableError, match=r"2 could not be read: number 0 \(None\); number 2 \(None\)"):
        Reader(model, tokenizer, 2).read([None, "a film", None], "inputs")


def test_iterators_that_never_go_on_are_given_up(vit):
    class Endless:
        def __iter__(self):
            return self

        def __next__(self):
            raise OSError("disk on fire")

    with pytest.raises(UnreadableError, match=r"20 could not be read: .*None could: is processor= the model's"):
        Reader(vit, None, 2, "skip").read(Endless(), "inputs")


def test_pictures_get_the_models_colours(vit, pictures):
    grey = [picture.convert("L") for picture in pictures]
    assert pixels(Reader(vit, to_pixels, 5).read(grey, "inputs")).shape == (5, 3, 12, 12)


def test_pairs_of_texts():
    model, tokenizer = load_text_model()
    (batch,) = Reader(model, tokenizer, 2).read([("good", "bad"), ("a film", "a book")], "inputs")
    assert batch.keywords["token_type_ids"].sum(1).tolist() == [2, 3]


def test_used_up_iterators_are_noticed(vit):
    given = iter([torch.rand(3, 12, 12)])
    Reader(vit, None, 2).read(given, "inputs")
    with pytest.raises(ValueError, match="inputs: there are no examples; an iterator that was used up gives none"):
        Reader(vit, None, 2).read(given, "inputs")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, TypeError, "inputs: expected examples or an iterable of batches, got int"),
        (["a text"], TypeError, "inputs: str needs processor="),
        ([object()], TypeError, "inputs: expected examples or an iterable of batches, got object"),
        ("a text", TypeError, "a single one goes into a list"),
        (torch.zeros(2, 3), TypeError, "expected integer token ids"),
        ({"pixels": 1}, ValueError, "expected a mapping with input_ids"),
    ],
)
def test_other_things_are_refused(vit, given, error, message):
    with pytest.raises(error, match=message):
        Reader(vit, None, 2).read(given, "inputs")


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("names", [["a", "b", "c"], [0, 1, 2]])
def test_columns_of_a_data_loader_are_no_pairs_of_texts(size, names):
    model, tokenizer = load_text_model()
    pairs = list(zip(["a gripping film", "dull", "so charming"], names, strict=True))
    with pytest.raises(ValueError, match="concept 'praise': tuples of texts are columns of examples"):
        Reader(model, tokenizer, 2).read(DataLoader(pairs, batch_size=size), "concept 'praise'")


def test_what_may_be_pairs_or_batches_is_refused():
    model, tokenizer = load_text_model()
    texts = ["a gripping film", "dull", "so charming", "a mess"]
    loader = DataLoader(list(zip(texts, range(4), strict=True)), batch_size=2)
    reader = Reader(model, tokenizer, 4)
    with pytest.raises(ValueError, match="so that it is not clear what these are"):
        reader.read((column for column, _ in loader), "texts")
    (expected,) = reader.read(texts, "texts")
    for batches in ((list(column) for column, _ in loader), [tuple(texts[:3]), tuple(texts[3:])]):
        read = reader.read(batches, "texts")
        assert sum(map(len, read)) == 4
        assert torch.equal(read[0].features[0, :5], expected.features[0, :5])


def test_pairs_of_texts_come_from_a_data_loader_that_keeps_lists():
    model, tokenizer = load_text_model()
    pairs = [("a gripping film", "dull"), ("so charming", "a mess")]
    reader = Reader(model, tokenizer, 2)
    (of_loader,), (of_list,) = (reader.read(one, "pairs") for one in (DataLoader(pairs, 2, collate_fn=list), pairs))
    assert torch.equal(of_loader.features, of_list.features)


def test_a_function_may_read_texts():
    model, tokenizer = load_text_model()
    texts = ["a gripping film", "dull"]
    (found,) = Reader(model, lambda each: tokenizer(each, padding=True, return_tensors="pt"), 2).read(texts, "texts")
    assert torch.equal(found.features, Reader(model, tokenizer, 2).read(texts, "texts")[0].features)
