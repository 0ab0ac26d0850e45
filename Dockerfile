# syntax=docker/dockerfile:1
# One image for every service and every command: docker run ... exactly-once services.order worker

FROM ghcr.io/astral-sh/uv:0.13.8 AS uv

FROM python:3.13-slim AS packages
COPY --from=uv /uv /bin/
WORKDIR /app
COPY pyproject.toml requirements.lock ./
COPY shared/pyproject.toml shared/
# What a process imports (the dependencies of the library and of the services, without the group for development), in the
# versions of the lock. Every hash is checked, and nothing is compiled except the bytecode of pure Python, once, so that no
# start has to do it.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --python /usr/local/bin/python3 --no-managed-python && \
    uv pip install --require-hashes --only-binary :all: --compile-bytecode --link-mode copy \
        --requirements pyproject.toml --requirements shared/pyproject.toml --extra api --extra calls --extra console \
        --extra traces --constraints requirements.lock

FROM python:3.13-slim
# Who breaks in finds no installer. The number is what Kubernetes' runAsNonRoot looks at.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore pip && \
    rm -r /usr/local/lib/python3*/ensurepip && \
    useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
WORKDIR /app
COPY --from=packages /app/.venv .venv
COPY shared shared
COPY services services
COPY migrations migrations
# In a container the network is the border, and nobody else has its ports: APIs and workers answer at the same one.
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HTTP_HOST=0.0.0.0 HTTP_PORT=8000 METRICS_PORT=8000 LOG_FORMAT=json
RUN python -m compileall -q shared services migrations
USER 10001
EXPOSE 8000
# A worker finishes its batch and an API its requests; give them SHUTDOWN_GRACE_SECONDS, and as much again to close.
STOPSIGNAL SIGTERM
# It bears what a worker may take to recover (shared/worker/budgets.py; a test compares them).
# -S leaves out site-packages: an interpreter that starts every few seconds should be a small one. No proxy of the
# surroundings is asked for it: Docker gives the variables of its own configuration to every container.
HEALTHCHECK --interval=15s --timeout=10s --retries=9 --start-period=180s --start-interval=2s CMD ["python", "-I", "-S", "-c", \
    "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/health/ready', timeout=9)"]
ENTRYPOINT ["python", "-m"]
