# The operator. Dependencies before code: a change of code rebuilds seconds, not minutes.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
COPY requirements/operator.lock /opt/requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --require-hashes -r /opt/requirements.lock \
 && /opt/venv/bin/pip uninstall --quiet --yes pip setuptools
COPY operator/penstock /opt/penstock/penstock
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/penstock \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN python3 -m compileall -q /opt/penstock
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "penstock.cli"]
CMD ["run"]
