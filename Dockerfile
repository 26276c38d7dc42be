# The operator. Dependencies before code, so that a change of code rebuilds in seconds.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
COPY requirements/operator.lock /opt/penstock/requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --require-hashes -r /opt/penstock/requirements.lock \
 && /opt/venv/bin/pip uninstall --quiet --yes pip setuptools \
 && printf '%s\n' '#!/opt/venv/bin/python3' 'import sys' 'from penstock.cli import main' 'sys.exit(main())' \
      > /opt/venv/bin/penstock \
 && chmod 0755 /opt/venv/bin/penstock
COPY operator/penstock /opt/penstock/penstock
# nothing is written at run time, so byte code is made here and never compared with its source
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/penstock
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/penstock HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /opt/penstock
EXPOSE 8080
ENTRYPOINT ["penstock"]
CMD ["run", "--supervise"]
