# By tag: a build takes what was mended in Debian and Python since. `--build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…`
# builds on the same image every time.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1


# The wheel, made with the locked build backend: nothing is fetched without a hash.
FROM base AS wheel
WORKDIR /src
COPY requirements-build.lock ./
RUN pip install --require-hashes -r requirements-build.lock
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


# The dependencies are a layer of their own, so that a change to the code does not install them again.
FROM base AS venv
RUN python -m venv /opt/tidings
COPY requirements-runtime.lock ./
RUN /opt/tidings/bin/pip install --require-hashes -r requirements-runtime.lock
COPY --from=wheel /wheel /wheel
RUN /opt/tidings/bin/pip install --no-deps --no-index /wheel/*.whl


FROM base
RUN groupadd --gid 10001 tidings \
    && useradd --uid 10001 --gid tidings --no-create-home --home-dir /data --shell /usr/sbin/nologin tidings \
    && install --directory --owner=tidings --group=tidings --mode=0700 /data
COPY --from=venv /opt/tidings /opt/tidings
ENV PATH=/opt/tidings/bin:$PATH \
    TIDINGS_DATA_DIR=/data \
    TIDINGS_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
CMD ["tidings", "serve"]
