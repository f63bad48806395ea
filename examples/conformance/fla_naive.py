"""fastweights verify --implementation "python3 fla_naive.py": the operators of flash-linear-attention that are plain PyTorch.

Needs PyTorch and fla-core, and what that needs: einops, packaging, and Triton, which it imports and these operators don't use.
"""

import warnings

from serve import NotOffered, serve

warnings.filterwarnings("ignore")
from fla.ops.delta_rule.naive import delta_rule_recurrence  # noqa: E402
from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule, naive_recurrent_gated_delta_rule  # noqa: E402
from fla.ops.gdn2.naive import naive_recurrent_gdn2  # noqa: E402
from fla.ops.gla.naive import naive_recurrent_gla  # noqa: E402
from fla.ops.kda.naive import naive_chunk_kda, naive_recurrent_kda  # noqa: E402
from fla.ops.linear_attn.naive import naive_recurrent_linear_attn  # noqa: E402
from fla.ops.simple_gla.naive import naive_chunk_simple_gla, naive_recurrent_simple_gla  # noqa: E402

ALL = ["initial", "final", "scale", "backward"]


def both(recurrent, chunk=None, divides=False):
    """Our names for their arguments. divides: whether chunks must fill the sequence."""

    def run(form, options, q, k, v, S0=None, gate=None, **more):
        given = {"q": q, "k": k, "v": v, "initial_state": S0, "scale": options["scale"], "output_final_state": True, **more}
        if gate is not None:
            given["g"] = gate
        if form == "chunk":
            length = options.get("chunk", 64)
            given["chunk_size"] = max(n for n in range(1, length + 1) if q.shape[1] % n == 0) if divides else length
        y, S = (chunk if form == "chunk" else recurrent)(**given)
        return {"y": y, "S": S}

    return {"forms": ["recurrent", "chunk"] if chunk else ["recurrent"], "options": ALL + (["chunk"] if chunk else []), "run": run}


def gla(form, options, q, k, v, gate, S0=None):
    """It has a scale of its own."""
    y, S = naive_recurrent_gla(q * (options["scale"] * q.shape[-1] ** 0.5), k, v, gate, S0, True)
    return {"y": y, "S": S}


def delta(form, options, q, k, v, beta, S0=None):
    """Heads come before tokens, and it has a scale of its own."""
    swapped = [x.transpose(1, 2) for x in (q * (options["scale"] * q.shape[-1] ** 0.5), k, v, beta)]
    y, S = delta_rule_recurrence(*swapped, S0, True)
    return {"y": y.transpose(1, 2), "S": S}


def gdn2(form, options, erase, write, gate, S0=None, **given):
    y, S = naive_recurrent_gdn2(**given, g=gate, b=erase, w=write, scale=options["scale"], initial_state=S0, output_final_state=True)
    return {"y": y, "S": S}


def chunk_kda(g, **given):
    # It raises e to the sum of a chunk's gates with the opposite sign, which float32 doesn't hold beyond 88.
    if g.sum(1).min() < -80:
        raise NotOffered("stronger gates in a chunk")
    return naive_chunk_kda(g=g, **given)


kda = both(naive_recurrent_kda, chunk_kda, divides=True)

serve(
    "fla's naive operators",
    "float32",
    {
        "sum": both(naive_recurrent_linear_attn),
        "mamba2": both(naive_recurrent_simple_gla, naive_chunk_simple_gla),
        "gla": {"options": ALL, "run": gla},
        "delta": {"options": ALL, "run": delta},
        "gated-delta": both(naive_recurrent_gated_delta_rule, naive_chunk_gated_delta_rule),
        "kda": {**kda, "options": kda["options"] + ["heads"]},
        "gdn2": {"options": ALL, "run": gdn2},
    },
)
