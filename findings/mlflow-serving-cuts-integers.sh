#!/usr/bin/env bash
# A served MLflow model gets 1 where the request says 1.7, if its signature says int64; loaded in Python it refuses.
#
# Software:  mlflow 3.17.2.
# Expected:  a tensor signature of int64 is enforced: `predict` of a float array raises, so a request with 1.7 to the
#            same model's /invocations is an error too.
# Happens:   the server casts the JSON to the signature's type before it is enforced: 1.7 becomes 1, and "3" becomes
#            3. The model cannot see what was sent.
# Seen:      predict(float64 1.7)                 refused
#            request {"x": [1.7, 2.9]}            200, the model got int64 [1, 2]
#            request {"x": ["3"]}                 200, the model got int64 [3]
#            the same with a signature of object  200, the model got float64 [1.7, 2.9]
# Matters:   a seed, a class or a token id that a client computed as a float by mistake is answered with another
#            seed's, class's or token's output and status 200; tests that load the model in Python see an error there.
# Instead:   declare such inputs as object tensors, TensorSpec(np.dtype("O"), (-1,), name), and check type and range in
#            predict.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 900 "$work/venv/bin/pip" install --quiet mlflow==3.17.2 ||
  { echo "cannot install the packages"; exit 2; }

cd "$work"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_TRACKING_URI="sqlite:///$work/mlflow.db"
cat > model.py <<'PY'
import json
import sys

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import invocations  # what POST /invocations calls
from mlflow.types import Schema, TensorSpec


class Echo(mlflow.pyfunc.PythonModel):
    """Answers with the type and the values that it got."""

    def predict(self, context, model_input, params=None):
        got = np.asarray(model_input["x"])
        got = np.array(got.tolist()) if got.dtype == object else got
        return [f"{got.dtype} {got.tolist()}"]


def loaded(kind):
    signature = ModelSignature(Schema([TensorSpec(np.dtype(kind), (-1,), "x")]))
    mlflow.pyfunc.save_model(f"model-{kind}", python_model=Echo(), signature=signature, pip_requirements=["mlflow"])
    return mlflow.pyfunc.load_model(f"model-{kind}")


def answer(model, values):
    request = json.dumps({"inputs": {"x": values}})
    found = invocations(request, "application/json", model, model.metadata.get_input_schema())
    return found.status, json.loads(found.response)["predictions"]


model, changed = loaded("int64"), False
try:
    model.predict({"x": np.array([1.7])})
    print("predict(float64 1.7)                 accepted")
    changed = True
except Exception as error:
    print(f"predict(float64 1.7)                 refused ({type(error).__name__})")
for values, wanted in (([1.7, 2.9], "int64 [1, 2]"), (["3"], "int64 [3]")):
    found = answer(model, values)
    print(f"request {json.dumps(values):28} {found}")
    changed |= found != (200, [wanted])
found = answer(loaded("O"), [1.7, 2.9])
print(f"request [1.7, 2.9], object           {found}")
changed |= found != (200, ["float64 [1.7, 2.9]"])
sys.exit(changed)
PY
if ! "$work/venv/bin/python" model.py 2> errors.txt; then
  tail -3 errors.txt
  echo "CHANGED: a served model no longer gets integers cut from floats"
  exit 1
fi
echo "As described: the server casts to the signature's type before the model can refuse."
