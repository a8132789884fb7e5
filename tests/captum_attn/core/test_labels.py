"""Names of classes become numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from captum_attn.core.labels import class_number

NAMES = SimpleNamespace(id2label={0: "O", 1: "B-PER", 2: "I-PER", 3: "o"}, label2id={"LABEL_2": 2})


@pytest.mark.parametrize(
    ("name", "number"), [("O", 0), ("o", 3), ("B-PER", 1), ("b-per", 1), ("LABEL_2", 2), ("label_2", 2)]
)
def test_case_counts_where_it_tells_classes_apart(name, number):
    assert class_number(name, NAMES) == class_number(name, NAMES, classes=4) == number


def test_a_configuration_read_from_a_file_may_have_numbers_as_text():
    assert class_number("b", SimpleNamespace(id2label={"0": "a", "1": "b"})) == 1


TWICE = SimpleNamespace(id2label={0: "yes", 1: "no", 2: "yes"})
AT_ODDS = SimpleNamespace(id2label={0: "negative", 1: "positive"}, label2id={"positive": 0, "negative": 1})
MANY = SimpleNamespace(id2label={number: f"class {number}" for number in range(1000)})
SPARSE = SimpleNamespace(id2label={0: "a", 1: "b"}, label2id={"c": 7, "A": 0, "d": -1})
FROM_ONE = SimpleNamespace(id2label={1: "a", 2: "b"})
REFUSED = {
    "a name of a number that has none": (
        "c",
        SPARSE,
        2,
        r"'c' is no class of the model's configuration. There are 'a'",
    ),
    "the like, of a negative number": ("D", SPARSE, None, r"'D' is no class .* There are 'a', 'b', 'A'$"),
    "numbers that start at one": ("b", FROM_ONE, 2, r"'b' names the class 2 .* no output: there are 2, counted from 0"),
    "no names": ("a", None, None, "no configuration that names its classes"),
    "names of another output": (
        "O",
        NAMES,
        5,
        "names 4 classes and the output has 5, so the names are not the output's",
    ),
    "a slip of the pen": ("B-PRE", NAMES, None, r"did you mean 'B-PER'"),
    "a name in two classes": ("yes", TWICE, 3, r"'yes' names the classes \[0, 2\]"),
    "two cases and neither": ("YES", TWICE, 3, r"'YES' names the classes \[0, 2\]"),
    "a configuration at odds with itself": ("positive", AT_ODDS, 2, r"names the classes \[0, 1\]"),
    "one of many": ("zebra", MANY, None, r"There are 'class 0', .*'class 9', ... \(1000 in all\)"),
}


@pytest.mark.parametrize(("name", "config", "classes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_name_says_is_named(name, config, classes, message):
    with pytest.raises(ValueError, match=message):
        class_number(name, config, classes)
