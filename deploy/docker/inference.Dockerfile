# syntax=docker/dockerfile:1
# The inference plane: ONNX Runtime and the Open Inference Protocol, no torch.
# Build from the top of the repository:
#   docker build --file deploy/docker/inference.Dockerfile --tag batchyard-inference .
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/batchyard
ENV PATH=/opt/batchyard/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CACHE_DIR=/var/cache/pip
COPY requirements.lock pyproject.toml README.md ./
COPY proto ./proto
COPY server ./server
COPY worker ./worker
COPY client ./client
# safetensors reads the certificate's samples; the rest of the worker extra stays out.
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --constraint requirements.lock ".[server,fast]" safetensors

FROM python:3.12.12-slim-bookworm
RUN groupadd --gid 10001 batchyard \
    && useradd --uid 10001 --gid 10001 --create-home batchyard \
    && install --directory --owner=batchyard --group=batchyard /cache
COPY --from=build /opt/batchyard /opt/batchyard
COPY deploy/docker/healthcheck.py /opt/batchyard/healthcheck.py
ENV PATH=/opt/batchyard/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/batchyard
VOLUME /cache
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "/opt/batchyard/healthcheck.py", "127.0.0.1:8002"]
ENTRYPOINT ["python", "-m", "batchyard.serving", "--cache", "/cache"]
# The control plane's address must be given; deploy/compose does.
CMD ["--help"]
