FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/exporter \
 && /opt/exporter/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY prometheus prometheus
RUN pip wheel --no-deps --wheel-dir /wheel . \
 && /opt/exporter/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM python:3.11-slim-bookworm
# Only /data is written: the image runs with a read-only root file system.
RUN useradd --uid 10042 --no-create-home --shell /usr/sbin/nologin exporter \
 && install -d -o exporter -g exporter /data
COPY --from=build /opt/exporter /opt/exporter
ENV PATH=/opt/exporter/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10042
VOLUME /data
EXPOSE 10042
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:10042/-/healthy', timeout=3)"]
ENTRYPOINT ["ai-spend-exporter"]
CMD ["run", "--config.file=/etc/ai-spend-exporter/config.yaml", "--storage.path=/data"]
