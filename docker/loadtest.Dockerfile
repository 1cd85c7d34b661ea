# The load generator: gRPC, HTTP and OpenAI's API, with Locust.
#
#   docker build -f docker/loadtest.Dockerfile -t trireme/loadtest .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/trireme
COPY docker/requirements/loadtest.txt docker/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --require-hashes -r docker/requirements/loadtest.txt
COPY pyproject.toml README.md ./
COPY runtime runtime
COPY clients clients
COPY loadtests loadtests
# The command `trireme` itself.
COPY ops ops
# The distribution names all its folders.
RUN mkdir -p build/trireme_build gateway/trireme_gateway && \
    /opt/venv/bin/python -m pip install -q --no-deps --no-build-isolation --editable . && \
    /opt/venv/bin/python -m compileall -q runtime clients loadtests ops && \
    chmod -R go+rX .

FROM ${PYTHON_IMAGE} AS loadtest
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /opt/trireme /opt/trireme
# Where reports go. A volume takes over its owner.
RUN install -d -o 10001 -g 10001 -m 0755 /results
WORKDIR /results
USER 10001:10001
STOPSIGNAL SIGTERM
# It ends by itself: there is nothing to ask while it runs.
HEALTHCHECK NONE
ENTRYPOINT ["trireme", "load"]
CMD ["--help"]
