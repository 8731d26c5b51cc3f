# syntax=docker/dockerfile:1
#
# Default: a non-root user and the level that an ordinary container allows ("user" where the host permits user namespaces,
# else "process"; `docker run --rm IMAGE doctor` says which and why).
#
# Level "full" needs root with CAP_SYS_ADMIN, an unmasked /proc and a writable cgroup tree:
#   docker run --user 0 --privileged --cgroupns=private -p 127.0.0.1:4566:4566 -v engine:/data IMAGE
# or, without --privileged:
#   --user 0 --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined
#   --security-opt systempaths=unconfined --cgroupns=private
#
# The port is published by binding 0.0.0.0 inside the container: give keys, or publish it on the host's loopback only and say so:
#   -e LAMBDA_ENGINE_AUTH=sigv4 -e LAMBDA_ENGINE_ACCESS_KEYS='{"AKIA...":"secret"}'
#   -p 127.0.0.1:4566:4566 -e LAMBDA_ENGINE_INSECURE=true
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY engine engine
COPY runtime_bootstrap runtime_bootstrap
# The compiled lane wants a compiler; only what it builds leaves this stage.
RUN apt-get update && apt-get install -y --no-install-recommends gcc=4:* libc6-dev=2.* && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/engine && /opt/engine/bin/pip install --no-cache-dir '.[embedded,gateway]'

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home --home-dir /data --shell /usr/sbin/nologin engine
COPY --from=build /opt/engine /opt/engine
ENV PATH=/opt/engine/bin:$PATH \
    LAMBDA_ENGINE_DATA_DIR=/data \
    LAMBDA_ENGINE_HOST=0.0.0.0
USER 10001
VOLUME /data
EXPOSE 4566
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4566/readyz', timeout=2)"]
ENTRYPOINT ["lambda-engine"]
CMD ["serve"]
