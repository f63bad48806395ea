"""An exported model in Python's onnxruntime and onnx's reference evaluator: python3 onnx-export.py MODEL.onnx CASE.json.

CASE has tokens [B,T] and the logits expected. Prints, for each, the largest difference of all logits at once and of one token at a time.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

model = onnx.load(sys.argv[1])
onnx.checker.check_model(model, full_check=True)
with open(sys.argv[2]) as file:
    case = json.load(file)
B, T = case["B"], case["T"]
ids = np.array(case["ids"], dtype=np.int64).reshape(B, T)
expected = np.array(case["expected"]).reshape(B, T, -1)
fresh = json.loads({entry.key: entry.value for entry in model.metadata_props}.get("fresh", "{}"))


def first_state():
    sizes = {"batch": B, "past": 0}
    state = {}
    for given in model.graph.input:
        if given.name == "tokens":
            continue
        kind = np.float32 if given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT else np.int64
        dims = [sizes.get(d.dim_param, d.dim_value) for d in given.type.tensor_type.shape.dim]
        state[given.name] = np.full(dims, float(fresh.get(given.name, 0)), dtype=kind)
    return state


def errors(run):
    names = [out.name for out in model.graph.output]
    whole = dict(zip(names, run({"tokens": ids, **first_state()})))
    state, stepwise = first_state(), 0.0
    for t in range(T):
        out = dict(zip(names, run({"tokens": ids[:, t : t + 1], **state})))
        state = {name: out[name.replace("past.", "present.")] for name in state}
        stepwise = max(stepwise, float(np.abs(out["logits"][:, 0] - expected[:, t]).max()))
    return {"whole": float(np.abs(whole["logits"] - expected).max()), "stepwise": stepwise}


session = onnxruntime.InferenceSession(sys.argv[1])
evaluator = ReferenceEvaluator(model)
print(
    json.dumps(
        {
            "onnxruntime": errors(lambda given: session.run(None, given)),
            "reference": errors(lambda given: evaluator.run(None, given)),
        }
    )
)
