# The one image of the project: bud-operator, bud-weights, bud-probe, bud-relay and `python -m bud.engines.tiny`.
#
#   docker build --tag bud-operator .
#
# Any image of Debian or Ubuntu with Python >= 3.11 and its venv module will do as BASE. Where packages come through a mirror or
# a proxy with a certificate of its own, give pip its configuration as secrets, which stay out of the image:
#
#   docker build --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem --tag bud-operator .
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS libraries
WORKDIR /src
ENV PIP_CONFIG_FILE=/run/secrets/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/libraries
COPY requirements.lock ./
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    /build/bin/pip --python /opt/libraries/bin/python install \
    --require-hashes --only-binary :all: --requirement requirements.lock

FROM libraries AS project
COPY requirements-dev.lock ./
# The build backend and what it needs, out of the development lock.
RUN awk '/^[a-z]/ {wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} wanted' \
    requirements-dev.lock > requirements-build.lock
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    /build/bin/pip install --require-hashes --only-binary :all: --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/libraries/bin/python install --no-deps --no-index --target /opt/bud /wheel/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="bud-operator" \
      org.opencontainers.image.description="Serves models on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/cache/apt/* /var/lib/apt/lists/*
RUN echo 'bud:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'bud:x:65532:' >> /etc/group
# Two layers: a new version with the same libraries is a small download.
COPY --from=libraries /opt/libraries /opt/libraries
COPY --from=project /opt/bud /opt/bud
ENV PATH=/opt/bud/bin:/opt/libraries/bin:$PATH PYTHONPATH=/opt/bud PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
ENTRYPOINT ["bud-operator"]
