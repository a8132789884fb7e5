"""Do explanations agree with each other, and with themselves? Agreement beside faithfulness and cost."""

from captum_attn.comparison.comparison import compare
from captum_attn.comparison.comparison_result import Comparison

__all__ = ["Comparison", "compare"]


def __dir__() -> list[str]:
    return __all__
