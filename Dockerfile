# Offkey and what it needs, for any user id. The layers stand in the order in which they change: system,
# dependencies, code.

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock pyproject.toml ./
RUN pip install --no-cache-dir --constraint requirements.lock uv hatchling
# The CPU's torch is a tenth of the one in the lock, which brings CUDA along. Empty: the lock's.
ARG TORCH_BACKEND=cpu
# The system's certificates: a company's proxy may have one of its own.
ENV UV_SYSTEM_CERTS=1
RUN uv venv --python python3 /opt/offkey
RUN dependencies() { \
        uv pip install --python /opt/offkey --no-cache --compile-bytecode \
            --requirement pyproject.toml --extra s3 --constraint requirements.lock "$@"; \
    }; \
    if [ -z "$TORCH_BACKEND" ]; then dependencies; \
    elif ! dependencies --torch-backend "$TORCH_BACKEND"; then \
        echo "Not with the torch of '$TORCH_BACKEND' (see above): trying the lock's, with CUDA, some 4 GB more." >&2; \
        dependencies; \
    fi

FROM build AS code
COPY README.md LICENSE ./
COPY features features
COPY models models
COPY search search
COPY studies studies
RUN python3 -m hatchling build --target wheel --directory /wheel && \
    uv pip install --python /opt/offkey --prefix /code --no-deps --no-cache --compile-bytecode /wheel/*.whl

FROM python:3.11-slim-bookworm
# tini is the first process: it hands signals on and buries whom a killed worker leaves behind.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    # Any user id may write here, as a member of group 0: so do those who come after it, whatever theirs.
    install --directory --mode=2775 --group=0 \
        /home/offkey /offkey /offkey/output /corpus /var/lib/offkey/cache /var/lib/offkey/artifacts
COPY --from=build /opt/offkey /opt/offkey
COPY --from=code /code /opt/offkey
COPY deploy/healthcheck.py /opt/offkey/bin/healthcheck.py
# USER is a name for those who ask for one: the user id has none.
# What numba compiles is kept in the cache, which containers share: it takes half a minute.
ENV PATH=/opt/offkey/bin:$PATH HOME=/home/offkey USER=offkey \
    OFFKEY_CACHE=/var/lib/offkey/cache OFFKEY_ARTIFACTS=/var/lib/offkey/artifacts NUMBA_CACHE_DIR=/var/lib/offkey/cache/numba
WORKDIR /offkey
USER 1000:0
ENTRYPOINT ["tini", "--", "sh", "-c", "umask 0002; exec \"$@\"", "sh"]
CMD ["offkey", "--help"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "/opt/offkey/bin/healthcheck.py"]
