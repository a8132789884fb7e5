"""Numbers and names as words, and the rows of a table that come first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_MOST_NAMES = 5


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus, but none before zero; a dash where there is none.

    Example:
        >>> number(-0.254), number(-0.001), number(float("nan"))
        ('−0.25', '0.00', '–')
    """
    return "–" if value != value else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def with_error(mean: float, error: float, digits: int = 3, written: Callable[[float, int], str] = number) -> str:
    """A mean ± its standard error, which is left out where there is none (NaN).

    Args:
        mean, error: what is written.
        digits: behind the point.
        written: how a number is.

    Example:
        >>> with_error(-0.25, 0.1), with_error(0.25, float("nan")), with_error(-0.25, 0.1, 2, "{:.{}f}".format)
        ('−0.250 ± 0.100', '0.250', '-0.25 ± 0.10')
    """
    return written(mean, digits) + (f" ± {written(error, digits)}" if error == error else "")


def short(value: float) -> str:
    """A number between -1 and 1 without the zero before its point.

    Example:
        >>> short(-0.254), short(1.0), short(0.0)
        ('−.25', '1', '0')
    """
    whole = {"0.00": "0", "1.00": "1", "−1.00": "−1"}
    return whole.get(number(value), number(value).replace("0.", ".", 1))


def shorten(text: str, longest: int) -> str:
    """The beginning and the end of a text that is too long.

    Example:
        >>> shorten("incomprehensibilities", 10), shorten("short", 10)
        ('incomp…ies', 'short')
    """
    end = longest // 3
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[len(text) - end :]}"


def percent(share: float) -> str:
    """A share between 0 and 1 in percent.

    Example:
        >>> percent(0.254)
        '25 %'
    """
    return f"{100 * share:.0f} %"


def listed(names: Sequence[str]) -> str:
    """Some names in a sentence; of many, the first ones and the number of the others.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"]), listed(list("abcdefgh"))
        ('a', 'a, b and c', 'a, b, c, d, e and 3 others')
    """
    if len(names) > _MOST_NAMES + 1:
        names = [*names[:_MOST_NAMES], f"{len(names) - _MOST_NAMES} others"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def strongest(rows: pd.DataFrame, k: int, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Of each group of rows, the k with the largest magnitudes, strongest first; groups as they come, NaN last.

    Args:
        rows: with an index of its own for each.
        k: how many of each group.
        by: the columns that tell groups apart.
        column: whose magnitudes count.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"text": [1, 1, 1, 0], "value": [0.1, -0.3, 0.2, 0.5]})
        >>> strongest(rows, 2, ["text"]).value.tolist()
        [-0.3, 0.2, 0.5]
    """
    group = rows.groupby([*by], sort=False).ngroup()
    ranked = rows.sort_values(column, key=lambda values: -values.abs(), kind="stable")
    found = ranked.groupby([*by], sort=False).head(k)
    return found.loc[group[found.index].sort_values(kind="stable").index].reset_index(drop=True)
