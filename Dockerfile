# Every image of the stack. Choose one with --target: muster, registrator, edge, web.
#
# Where the programs come from:
#   BINARIES=compile   they are built in here; needs Docker and nothing else (the default)
#   BINARIES=host      they are taken from FOLDER (target/release), where cargo on a Debian 12 (or with a libc no newer
#                      than its) has put them; needs no package registry during the build
ARG BINARIES=compile

FROM rust:1-bookworm AS compile
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bins -p muster-agent -p muster-registrator -p muster-template -p muster-examples \
    && mkdir /programs \
    && cp target/release/muster target/release/muster-registrator target/release/muster-template \
        target/release/muster-example-web /programs/

FROM scratch AS host
ARG FOLDER=target/release
COPY ${FOLDER}/muster ${FOLDER}/muster-registrator ${FOLDER}/muster-template ${FOLDER}/muster-example-web /programs/

FROM ${BINARIES} AS programs

# The agent: server or client, by its arguments.
FROM debian:bookworm-slim AS muster
COPY --from=programs /programs/muster /usr/local/bin/
COPY packaging/image/entrypoint.sh /usr/local/bin/muster-entrypoint
# Set-ups written for the image of Consul find its program and its folders.
RUN ln -s muster /usr/local/bin/consul && mkdir -p /consul/data /consul/config
EXPOSE 8300 8301 8301/udp 8302 8302/udp 8500 8600 8600/udp
ENTRYPOINT ["muster-entrypoint"]
CMD ["agent", "-dev", "-client=0.0.0.0"]

FROM debian:bookworm-slim AS registrator
COPY --from=programs /programs/muster-registrator /usr/local/bin/
ENTRYPOINT ["muster-registrator"]

# nginx as the child of the template daemon, which is the first process of the container.
FROM debian:bookworm-slim AS edge
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/default
COPY --from=programs /programs/muster-template /usr/local/bin/
COPY examples/nginx/ /etc/muster-template/
EXPOSE 80
ENTRYPOINT ["muster-template"]

FROM debian:bookworm-slim AS web
COPY --from=programs /programs/muster-example-web /usr/local/bin/
EXPOSE 8000
USER nobody
ENTRYPOINT ["muster-example-web"]
