# Build:  docker build -t flytelineage .
# Run:    docker run -v flytelineage:/data flytelineage --sqs_queue=flyte-events
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/flytelineage \
    && /opt/flytelineage/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/flytelineage /opt/flytelineage
# /data is the working directory: flytelineage.db is created there, and flytelineage_config.py is read from there.
RUN groupadd --gid 10001 flytelineage \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin flytelineage \
    && install --directory --owner=flytelineage --group=flytelineage --mode=0700 /data
ENV PATH=/opt/flytelineage/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /data
VOLUME /data
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["flytelineage"]
