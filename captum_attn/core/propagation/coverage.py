"""Which functions of a forward pass have a rule, and which others bend the way of relevance without one."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from captum_attn.core.graph_nodes import kind_of, nodes_between
from captum_attn.core.propagation.dependents import Dependents
from captum_attn.core.propagation.mode import PropagationMode
from captum_attn.core.propagation.rule_sets import Propagation
from captum_attn.core.user_warnings import warn_user


@dataclass(frozen=True)
class Coverage:
    """What was found on the way from the output down to the input.

    Attributes:
        plain: how often a function that is not linear kept its plain gradient, for want of a rule.
        hidden: functions of which nothing says what they compute.
    """

    plain: Counter[str]
    hidden: Counter[str]

    def __str__(self) -> str:
        if self.hidden:
            return f"refused, for nothing says what these do: {_quoted(self.hidden)}"
        return f"no rule for {_quoted(self.plain)}: plain gradients" if self.plain else "a rule for all that bends"


def check_coverage(coverage: Coverage, propagation: Propagation, model: Any) -> None:
    """Warn of functions that keep their plain gradient for want of a rule.

    Raises:
        ValueError: parts of the model hide what they compute, so that nothing says which rule they need.
    """
    name = type(model).__name__
    if coverage.hidden:
        raise ValueError(
            f"{name} computes its output by functions that hide what they do ({_listed(coverage.hidden)}): compiled "
            f"or fused ones, or ones with gradients of their own, to which no rule of {propagation.name!r} can be "
            "applied, so that relevance would be half explained. Explain the model from before it was compiled or "
            "patched, or with propagation='gradient'"
        )
    if coverage.plain:
        warn_user(
            f"{propagation.name!r} has no rule for functions of {name} that are not linear and pass their plain "
            f"gradient ({_listed(coverage.plain)}); help(captum_attn.core.propagation.replaced) shows how to add one"
        )


def _quoted(functions: Counter[str]) -> str:
    return ", ".join(map(repr, sorted(functions)))


def _listed(functions: Counter[str]) -> str:
    return ", ".join(f"{function} {count} times" if count > 1 else function for function, count in functions.items())


def coverage_of(output: Tensor, rules: PropagationMode) -> Coverage:
    """Look at all that an output was computed by from what depends on the input.

    Args:
        output: with a graph.
        rules: under which it was computed.
    """
    found = Coverage(Counter(), Counter())
    for node in nodes_between(output, within=rules.dependents.node_depends):
        kind = kind_of(node.name())
        if node in rules.ruled or kind in _OURS:
            continue
        if isinstance(node, BackwardCFunction) or not (kind.isidentifier() or _AS_THEY_ARE.fullmatch(kind)):
            found.hidden[kind] += 1
        elif kind in _PRODUCTS:
            found.plain[kind.lower()] += _bends(node, kind, rules.dependents)
        elif not _AS_THEY_ARE.fullmatch(kind):
            found.plain[kind.lower()] += 1
    written = {name: count for name, count in rules.in_place.items() if name not in found.plain}
    return Coverage(+(found.plain + Counter(written)), +found.hidden)


def _bends(node: Any, kind: str, dependents: Dependents) -> bool:
    """Whether more than one factor of a product depends on the input; what the product is added to is none."""
    depend = [parent is not None and dependents.node_depends(parent) for parent, _ in node.next_functions]
    if kind in ("Lerp", "Div"):  # from, to, and perhaps a weight; what is divided, and by what
        return len(depend) > 1 and depend[-1] and (kind == "Div" or len(depend) > 2)
    return sum(depend[:2] if kind in _ADD_LAST else depend[-2:]) > 1


_OURS = frozenset({"_ObservedAttention", "_ObservedSoftmax", "_Entrance", "_Gated"})
_ADD_LAST = frozenset(
    {"Convolution", "ConvolutionOverrideable", "MkldnnConvolution", "CudnnConvolution", "SlowConv2D", "SlowConv3D"}
    | {"ConvDepthwise2D", "ConvDepthwise3D", "GridSampler2D", "GridSampler3D", "CudnnGridSampler"}
)
_PRODUCTS = frozenset(
    {"Mul", "Div", "Mm", "Bmm", "Mv", "Dot", "Addmm", "Baddbmm", "Addcmul", "Addbmm", "Addmv", "Linear", "GroupedMm"}
    | {"Lerp", *_ADD_LAST}
)
_AS_THEY_ARE = re.compile(  # linear, or piecewise, in what depends on the input; softmax, its logarithm, its normaliser
    r"T|Add|Sub|Rsub|Neg|Sum|Mean|Nansum|NanToNum|Cumsum|MkldnnLinear|View\w*|UnsafeView|Reshape\w*|Transpose|Permute|"
    r"Expand|Slice|Select|\w*Split\w*|Cat|Stack|Index(Add|Copy|Fill|Put|PutImpl|Select)?|UnsafeIndex\w*|Gather|"
    r"Scatter(Add)?|Take\w*|Embedding\w*|Clone|Copy\w*|ToCopy|Unsqueeze|Squeeze\w*|Alias|Repeat\w*|Roll|Flip|AsStrided|"
    r"Masked\w*|Where|ConstantPadNd|Reflection\w*|Replication\w*|Upsample\w*|\w*AvgPool\w*|Unbind|Unfold|Im2Col|Col2Im|"
    r"Fft\w*|Tril|Triu|Diagonal|DiagEmbed|Real|Imag|Conj|Trace|Pixel\w*|Detach|Lift\w*|"
    r"Relu|LeakyRelu|Threshold|Max\w*|Min\w*|Amax|Amin|Abs|Clamp\w*|Topk|Sort|Kthvalue|Prelu\w*|\w*Dropout|"
    r"(Log)?Softmax|Logsumexp|Logaddexp2?|torch::autograd::(AccumulateGrad|Copy\w+)"
)
