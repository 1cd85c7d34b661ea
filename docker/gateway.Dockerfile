# The gateway: OpenAI's API in front of one or many servers, without any engine in it.
#
#   docker build -f docker/gateway.Dockerfile -t trireme/gateway .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/trireme
COPY docker/requirements/gateway.txt docker/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --require-hashes -r docker/requirements/gateway.txt
COPY pyproject.toml README.md ./
COPY runtime runtime
COPY clients clients
COPY gateway gateway
# The command `trireme` itself.
COPY ops ops
# The distribution names all its folders.
RUN mkdir -p build/trireme_build loadtests/trireme_load && \
    /opt/venv/bin/python -m pip install -q --no-deps --no-build-isolation --editable . && \
    /opt/venv/bin/python -m compileall -q runtime clients gateway ops && \
    chmod -R go+rX .

FROM ${PYTHON_IMAGE} AS gateway
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/var/lib
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /opt/trireme /opt/trireme
# What it notes of its ledger, and the database where no other is named. A volume takes over its owner.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/trireme
WORKDIR /opt/trireme
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: without a server behind it, it still says so to its clients, and is not to be started again.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health/live', timeout=4)"]
ENTRYPOINT ["trireme", "gateway"]
CMD ["--config", "/etc/trireme/gateway.toml"]
