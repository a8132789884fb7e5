"""Concepts from folders of images, as DTD, ImageNet and Broden lay them out."""

from __future__ import annotations

import pytest
from helpers.concept_folders import read_concepts, read_images
from helpers.small_models import TEXTURE_MODEL
from helpers.textures import class_images, random_images, texture_images
from pages import pictures_of
from PIL import Image
from scripts import run


def save_image(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.movedim(0, -1) * 255).byte().numpy()).save(path)


@pytest.fixture
def dtd(tmp_path):
    for name, texture in {"striped": "narrow stripes", "dotted": "dotted", "plain": "plain"}.items():
        for number, image in enumerate(texture_images(texture, 6, seed=0)):
            save_image(image, tmp_path / "dtd" / "images" / name / f"{name}_{number:04}.jpg")
    return tmp_path / "dtd" / "images"


@pytest.fixture
def targets(tmp_path):
    for number, image in enumerate(class_images("zebra", 4, seed=0)):
        save_image(image, tmp_path / "imagenet" / "n02391049" / f"{number}.png")
    return tmp_path / "imagenet" / "n02391049"


def test_each_folder_is_a_concept(dtd):
    concepts = read_concepts(dtd)
    assert list(concepts) == ["dotted", "plain", "striped"]
    assert [path.name for path in concepts["plain"]] == [f"plain_{number:04}.jpg" for number in range(6)]
    assert read_concepts(dtd.parent).keys() == concepts.keys()


def test_some_concepts_in_the_order_asked_for_and_some_of_their_images(dtd):
    concepts = read_concepts(dtd, ["striped", "dotted"], most=3)
    assert list(concepts) == ["striped", "dotted"]
    assert [path.stem[-1] for path in concepts["dotted"]] == ["0", "2", "4"]


def test_brodens_textures_come_from_its_index(tmp_path):
    (tmp_path / "label.csv").write_text(
        "number,name,category\n7,striped,texture(9)\n8,dotted,texture(9)\n9,sky,object(1)\n"
    )
    (tmp_path / "index.csv").write_text(
        "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture\n"
        "dtd/a.jpg,train,1,1,1,1,,,,,,7\ndtd/b.jpg,train,1,1,1,1,,,,,,7;8\nade/c.jpg,val,1,1,1,1,,9,,,,\n"
    )
    images = tmp_path / "images" / "dtd"
    assert read_concepts(tmp_path) == {"striped": [images / "a.jpg", images / "b.jpg"], "dotted": [images / "b.jpg"]}


def test_folders_that_are_none_are_refused(tmp_path, dtd):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_concepts(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds the concepts \['dotted', 'plain', 'striped'\], no sky"):
        read_concepts(dtd, ["sky"])
    with pytest.raises(ValueError, match=r"holds the concepts \[\], too few"):
        read_concepts(dtd / "plain")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        read_images(tmp_path / "empty")


def test_the_script_explains_folders_with_a_model_from_a_folder(dtd, targets, tmp_path):
    (dtd / "plain" / "broken.jpg").write_text("no picture")
    for number, image in enumerate(random_images(25, seed=0)):
        save_image(image, tmp_path / "null" / f"{number}.png")
    options = ["--concepts", str(dtd), "--targets", str(targets), "--model", str(TEXTURE_MODEL), "--target", "zebra"]
    options += ["--null", str(tmp_path / "null"), "--splits", "2"]
    printed = run("ttcav_images.py", *options, folder=tmp_path)
    assert "dotted (6), plain (7), striped (6); 4 targets" in printed
    assert "Without examples that the model takes for the class, or that are copies" in printed
    null = [line.split() for line in printed.splitlines() if "< .05" in line or "splits with" in line]
    assert [int(row[-5]) for row in null] == [10, 40, 2]
    assert (tmp_path / "found" / "states").exists()
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert {"scores", "map_0", "map_3"} <= {*pictures_of(page)}
