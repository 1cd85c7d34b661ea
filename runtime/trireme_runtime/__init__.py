"""What the Triton models' `model.py` files call: contract, tokenizing, detokenizing, stopping and engines."""

import sys

# Where OpenVINO finds this package it reports each import and each conversion to its makers. Whoever serves has not
# agreed to that, so it does not find it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
