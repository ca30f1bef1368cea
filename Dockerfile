# One image per service: `docker build --target authn -t kubegate/authn .`
# Each carries Python, that service's own locked dependencies, and only the rooms of the code that it runs.
# The base must have Python 3.11 or newer with venv at build time; it is an argument so that a mirror can stand in.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 UV_NATIVE_TLS=1
WORKDIR /src
COPY deploy/locks/build.lock deploy/locks/
RUN python3 -m venv /build && /build/bin/pip install --quiet --require-hashes --no-deps -r deploy/locks/build.lock
COPY deploy/room.sh deploy/sbom.py deploy/

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY services services
COPY configs configs
COPY protos/gen protos/gen
RUN /build/bin/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir /wheel .

# Dependencies first: a change of the code leaves them as they are.
FROM tools AS build-authn
COPY deploy/locks/authn.lock deploy/locks/
RUN sh deploy/room.sh depend authn
COPY --from=wheel /wheel /wheel
COPY deploy/health.py deploy/
RUN sh deploy/room.sh furnish authn

FROM tools AS build-authz
COPY deploy/locks/authz.lock deploy/locks/
RUN sh deploy/room.sh depend authz
COPY --from=wheel /wheel /wheel
COPY deploy/health.py deploy/
RUN sh deploy/room.sh furnish authz

FROM tools AS build-audit
COPY deploy/locks/audit.lock deploy/locks/
RUN sh deploy/room.sh depend audit
COPY --from=wheel /wheel /wheel
COPY deploy/health.py deploy/
RUN sh deploy/room.sh furnish audit

FROM tools AS build-mcp-core
COPY deploy/locks/mcp-core.lock deploy/locks/
RUN sh deploy/room.sh depend mcp-core
COPY --from=wheel /wheel /wheel
COPY deploy/health.py deploy/
RUN sh deploy/room.sh furnish mcp_core

FROM tools AS build-dev-cluster
COPY deploy/locks/dev-cluster.lock deploy/locks/
RUN sh deploy/room.sh depend dev-cluster
COPY --from=wheel /wheel /wheel
COPY deploy/health.py deploy/
RUN sh deploy/room.sh furnish dev_cluster

# The command line reads authz's policy language and audit's verification (and nothing else of them).
FROM tools AS build-cli
COPY deploy/locks/cli.lock deploy/locks/
RUN sh deploy/room.sh depend cli
COPY --from=wheel /wheel /wheel
RUN sh deploy/room.sh furnish cli authz audit

FROM ${BASE} AS runtime
ENV PATH=/opt/kubegate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GRPC_VERBOSITY=NONE
# What a service keeps lies in a volume at /state/<service>; the mount points belong to the user, so volumes do too.
RUN useradd --system --uid 10001 --user-group --home-dir /state --no-create-home kubegate \
  && for room in . authn authz audit mcp-core cluster k3s policy ca operator credentials run postgres prometheus collector grafana; do \
       install -d -m 0700 -o kubegate -g kubegate "/state/$room"; done
WORKDIR /state
USER 10001:10001

FROM runtime AS authn
COPY --from=build-authn /opt/kubegate /opt/kubegate
ENTRYPOINT ["python", "-m", "services.authn", "--config", "/state/authn/config.yaml"]

FROM runtime AS authz
COPY --from=build-authz /opt/kubegate /opt/kubegate
ENTRYPOINT ["python", "-m", "services.authz", "--config", "/state/authz/config.yaml"]

FROM runtime AS audit
COPY --from=build-audit /opt/kubegate /opt/kubegate
ENTRYPOINT ["python", "-m", "services.audit", "--config", "/state/audit/config.yaml"]

FROM runtime AS mcp-core
COPY --from=build-mcp-core /opt/kubegate /opt/kubegate
ENTRYPOINT ["python", "-m", "services.mcp_core", "--config", "/state/mcp-core/config.yaml"]

FROM runtime AS dev-cluster
COPY --from=build-dev-cluster /opt/kubegate /opt/kubegate
ENTRYPOINT ["python", "-m", "services.dev_cluster", "--config", "/state/cluster/config.yaml"]

FROM runtime AS cli
COPY --from=build-cli /opt/kubegate /opt/kubegate
ENTRYPOINT ["kubegate"]
CMD ["--help"]
