# From a checkpoint to a version: quantizing, exporting and verifying on the CPU. The same environment as `make setup-build`.
#
#   docker build -f docker/build.Dockerfile -t trireme/build .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/trireme
COPY requirements/build.txt requirements/torch.txt requirements/
# torch without a hash: its CPU build has another one than the wheel of the same version on the public index.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --no-deps --require-hashes -r requirements/build.txt && \
    /opt/venv/bin/python -m pip install -q --no-deps -r requirements/torch.txt
COPY . .
RUN /opt/venv/bin/python -m pip install -q --no-deps --no-build-isolation --editable . && \
    /opt/venv/bin/python -m compileall -q runtime build/trireme_build clients ops && \
    chmod -R go+rX .

FROM ${PYTHON_IMAGE} AS build
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    MPLCONFIGDIR=/tmp/matplotlib
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /opt/trireme /opt/trireme
# Rendered repositories, and what is published into them. A volume takes over its owner.
RUN install -d -o 10001 -g 10001 -m 0755 /srv/trireme
WORKDIR /srv/trireme
USER 10001:10001
STOPSIGNAL SIGTERM
# It ends by itself: there is nothing to ask while it runs.
HEALTHCHECK NONE
ENTRYPOINT ["trireme"]
CMD ["build", "--help"]
