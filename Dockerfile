# Two images from one file: `api` without torch (API, migration, sweeper), `worker` with it.
# docker build --target api . ; docker build --target worker .
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY constraints.txt pyproject.toml README.md ./
COPY src src
RUN pip install --quiet "$(grep '^pip==' constraints.txt)" \
 && pip install --quiet --constraint constraints.txt . --group api \
 && useradd --create-home --uid 1000 sslmem \
 && mkdir /data && chown sslmem /data
COPY alembic.ini ./
COPY alembic alembic
COPY models models
COPY service service
# Our own packages are found by path; they are never installed (docs/decisions/0001).
ENV PYTHONPATH=/app SSLMEM_ARTIFACTS=/data SSLMEM_HOST=0.0.0.0

FROM base AS api
COPY api api
COPY worker worker
USER sslmem
CMD ["python", "-m", "api"]

FROM base AS worker
RUN pip install --quiet --constraint constraints.txt '.[score]'
# Large blocks stay in the heap instead of going back to the system after each batch (docs/performance.md).
ENV MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
COPY worker worker
USER sslmem
CMD ["python", "-m", "worker"]
