# syntax=docker/dockerfile:1
# The control plane with its dashboard, and the training workers that it starts: torch and Ray.
# Build from the top of the repository:
#   docker build --file deploy/docker/control.Dockerfile --tag batchyard-control .
# torch's own build of PyPI brings CUDA along; TORCH_INDEX_URL names an index with a smaller one.
FROM python:3.12.12-slim-bookworm AS build
ARG TORCH_INDEX_URL=""
WORKDIR /source
RUN python -m venv /opt/batchyard
ENV PATH=/opt/batchyard/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
COPY requirements.lock ./
RUN --mount=type=cache,target=/var/cache/pip \
    pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep -E '^torch==' requirements.lock)"
COPY pyproject.toml README.md ./
COPY proto ./proto
COPY server ./server
COPY worker ./worker
COPY client ./client
RUN --mount=type=cache,target=/var/cache/pip pip install --constraint requirements.lock ".[server,worker]"

FROM python:3.12.12-slim-bookworm
RUN groupadd --gid 10001 batchyard \
    && useradd --uid 10001 --gid 10001 --create-home batchyard \
    && install --directory --owner=batchyard --group=batchyard /data
COPY --from=build /opt/batchyard /opt/batchyard
COPY deploy/docker/healthcheck.py /opt/batchyard/healthcheck.py
ENV PATH=/opt/batchyard/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/batchyard
VOLUME /data
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/opt/batchyard/healthcheck.py", "127.0.0.1:8080"]
ENTRYPOINT ["python", "-m", "batchyard.control", "--data-dir", "/data"]
# Inside the container alone; deploy/compose says how to open it.
CMD ["--grpc", "127.0.0.1:50051", "--http", "127.0.0.1:8080", "--no-inference"]
