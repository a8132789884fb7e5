"""Attribution methods, one or a family in each module; here is what they are made of, for methods of your own."""

from captum_attn.methods.attribution import AttentionAttribution, CommonArguments, Explained, OnePassAttribution
from captum_attn.methods.one_pass import explain_in_one_pass

__all__ = ["AttentionAttribution", "CommonArguments", "Explained", "OnePassAttribution", "explain_in_one_pass"]


def __dir__() -> list[str]:
    return __all__
