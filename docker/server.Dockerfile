# Triton servers under Trireme's supervisor.
#
#   docker build -f docker/server.Dockerfile --target cpu -t trireme/server:cpu .
#   docker build -f docker/server.Dockerfile --target gpu -t trireme/server:gpu .
#
# docs/containers.md has how they are run, docs/gpu.md what is special about the second.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3

FROM ${PYTHON_IMAGE} AS cpu-builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/trireme
# Before the sources: what they need changes seldom.
COPY requirements/core.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --require-hashes -r requirements/core.txt
COPY . .
RUN /opt/venv/bin/python -m pip install -q --no-deps --no-build-isolation --editable . && \
    # Without it the bytecode would be compiled at each start: the image is read-only.
    /opt/venv/bin/python -m compileall -q runtime build/trireme_build clients gateway ops && \
    # Whatever the umask of the checkout was: it is not this user who will read it.
    chmod -R go+rX . && \
    # The supervisor finds the engine made, and writes nothing but its state.
    /opt/venv/bin/python -m trireme_ops.engines && \
    rm -rf .trireme

FROM ${PYTHON_IMAGE} AS cpu
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/tmp/huggingface \
    TRIREME_ROOT=/opt/trireme
COPY --from=cpu-builder /opt/venv /opt/venv
COPY --from=cpu-builder /opt/trireme /opt/trireme
# The one folder that is written to: control key, logs, releases. A volume takes over its owner.
RUN install -d -o 10001 -g 10001 -m 0700 /opt/trireme/.trireme
WORKDIR /opt/trireme
USER 10001:10001
# HTTP, gRPC, Triton's metrics, the supervisor's health and metrics.
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8003/v2/health/ready', timeout=4)"]
ENTRYPOINT ["trireme", "serve"]
# Balancers are told before requests are refused.
CMD ["--address", "0.0.0.0", "--shutdown-delay", "3"]

# Never run by this project: see docs/gpu.md. What NVIDIA's image has (numpy, torch, transformers, TensorRT-LLM) is used as it
# is; an environment over it holds only what it lacks.
FROM ${TRITON_IMAGE} AS gpu-builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/trireme
COPY docker/lacking.py docker/requirements/gpu.txt docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --system-site-packages --without-pip /opt/venv && \
    /opt/venv/bin/python docker/lacking.py docker/gpu.txt > docker/lacking.txt && \
    python3 -m pip --python /opt/venv/bin/python install -q --no-deps --require-hashes -r docker/lacking.txt
COPY . .
RUN python3 -m pip --python /opt/venv/bin/python install -q --no-deps --no-build-isolation --editable . && \
    /opt/venv/bin/python -m compileall -q runtime build/trireme_build clients ops && \
    # Whatever is in the way shows here, not when a model is loaded: what must be NVIDIA's, and all that serving imports.
    # TensorRT-LLM itself is only looked for, since it looks for a GPU when it is imported.
    /opt/venv/bin/python docker/gpu_imports.py /opt/venv && \
    chmod -R go+rX .

FROM ${TRITON_IMAGE} AS gpu
# In front of the folders of NVIDIA's image: the model processes are to find this environment, too.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    TRIREME_TRITONSERVER=/opt/tritonserver \
    TRIREME_ROOT=/srv/trireme/gpu
COPY --from=gpu-builder /opt/venv /opt/venv
COPY --from=gpu-builder /opt/trireme /opt/trireme
# The repositories are in a volume, where `trireme render` and `trireme build` put them; the state is in another one.
RUN install -d -o 10001 -g 10001 -m 0700 /srv/trireme/gpu/.trireme
WORKDIR /srv/trireme
USER 10001:10001
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8003/v2/health/ready', timeout=4)"]
ENTRYPOINT ["trireme", "serve"]
# In the place of NVIDIA's entry point, which prints what it finds and then runs what it is given.
CMD ["--address", "0.0.0.0", "--shutdown-delay", "3", "--ready-timeout", "900"]
