# A static set of Debian's files with Python, and the exporter: no shell, package manager, compiler or pip.
#
# Pin the base image by its digest, which `docker buildx imagetools inspect debian:bookworm-slim` prints:
#   docker build --build-arg DEBIAN=debian:bookworm-slim@sha256:... .
# .github/workflows/release.yml does so; only the first stage uses the base.
ARG DEBIAN=debian:bookworm-slim

FROM ${DEBIAN} AS build
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends ca-certificates python3.11 python3.11-venv

# The packages that Python and the dependencies load libraries from, unpacked without their install scripts. Scanners of
# vulnerabilities read status.d, and each package keeps its copyright file.
WORKDIR /debs
RUN apt-get download -qq base-files gcc-12-base libbz2-1.0 libc6 libcrypt1 libexpat1 libffi8 libgcc-s1 liblzma5 \
    libpython3.11-minimal libpython3.11-stdlib libsqlite3-0 libssl3 libstdc++6 libuuid1 netbase python3.11-minimal zlib1g \
 && mkdir -p /image/var/lib/dpkg/status.d \
 && for deb in *.deb; do \
      dpkg-deb -x "$deb" /image && dpkg-deb -f "$deb" > "/image/var/lib/dpkg/status.d/$(dpkg-deb -f "$deb" Package)"; \
    done \
 && find /image/usr/share/doc -type f ! -name copyright -delete \
 && rm -rf /image/usr/share/man /image/usr/share/lintian /image/usr/share/locale /image/usr/lib/*/gconv /image/var/run /image/var/lock \
 && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && ln -s ../certs/ca-certificates.crt /image/etc/ssl/cert.pem \
 && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
 && echo 'exporter:x:10042:10042::/nonexistent:/usr/sbin/nologin' > /image/etc/passwd \
 && echo 'exporter:x:10042:' > /image/etc/group

WORKDIR /src
COPY requirements.lock requirements-dev.lock ./
# pip is in an environment of its own; hatchling, which builds the wheel, is of the lock file too.
RUN python3.11 -m venv --without-pip /opt/exporter && python3.11 -m venv /opt/pip \
 && /opt/pip/bin/pip --python /opt/exporter/bin/python install --no-cache-dir --no-compile --require-hashes \
      --only-binary :all: -r requirements.lock \
 && awk '/^[^ ]/ { kept = /^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==/ } kept' requirements-dev.lock > build.lock \
 && /opt/pip/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY prometheus prometheus
# Compiled once here: the image is read-only, and each health check would compile what it imports.
RUN /opt/pip/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel . \
 && /opt/pip/bin/pip --python /opt/exporter/bin/python install --no-cache-dir --no-compile --no-deps --no-index /wheel/*.whl \
 && rm -rf /opt/exporter/include /opt/exporter/bin/activate* /opt/exporter/bin/Activate.ps1 \
 && python3.11 -m compileall -q --invalidation-mode unchecked-hash /opt/exporter/lib \
 && python3.11 -m compileall -q --invalidation-mode unchecked-hash -s /image /image/usr/lib/python3.11 \
 && mkdir /empty

FROM scratch
COPY --from=build /image /
COPY --from=build /opt/exporter /opt/exporter
# Only /data is written: the image runs with a read-only root file system.
COPY --from=build --chown=10042:10042 /empty /data
ENV PATH=/opt/exporter/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10042
VOLUME /data
EXPOSE 10042
# With TLS in --web.config.file, add that flag: docs/configuration.md#container-image
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["ai-spend-exporter", "check", "health"]
ENTRYPOINT ["ai-spend-exporter"]
CMD ["run", "--config.file=/etc/ai-spend-exporter/config.yaml", "--storage.path=/data"]
