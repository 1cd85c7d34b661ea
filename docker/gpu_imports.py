"""Fails where the GPU image was put together wrongly: python docker/gpu_imports.py VENV

NVIDIA's packages must be NVIDIA's, not copies in the environment VENV that lies over them; and what the supervisor and
the models import must be there.
"""

import importlib
import importlib.util
import sys

#: Only looked for: importing some of them wants a GPU.
NVIDIAS = ("numpy", "torch", "transformers", "tensorrt_llm", "tokenizers", "safetensors")

#: All that serving with the profile trtllm imports, a package each; tests/docker/test_subset.py holds it to that.
SERVING = (
    *(
        "grpc",
        "google.protobuf",
        "tritonclient.grpc",
        "tritonclient.utils",
        "prometheus_client",
        "pydantic",
        "jinja2",
        "numpy",
    ),
    *("trireme_ops.serve", "trireme_ops.render", "trireme_runtime.tokenizing", "trireme_ops.guardian"),
)


def main() -> int:
    venv = sys.argv[1]
    for name in NVIDIAS:
        spec = importlib.util.find_spec(name)
        if spec is None or str(spec.origin).startswith(f"{venv}/"):
            print(
                f"{name}: {'not there' if spec is None else f'{spec.origin} is not that of the image'}", file=sys.stderr
            )
            return 1
    for name in SERVING:
        importlib.import_module(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
