# The balancer in front of the agents: docker build -f images/lard.Dockerfile .
#
# BINARIES says where the binary comes from: `compiled` compiles it here; `staged` takes it from the build context, a
# folder that `cargo xtask image` has filled. Either way it is under /out, laid out as in the image.
ARG BINARIES=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked -p openlambda-lard \
 && install -D --strip target/release/openlambda-lard /out/usr/bin/openlambda-lard

FROM scratch AS staged
COPY . /out/

FROM ${BINARIES} AS binaries

FROM debian:bookworm-slim
# Where it takes uploads it asks the registry, which may be any S3 service.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=binaries /out/ /
LABEL org.opencontainers.image.title="openlambda-lard" org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["/usr/bin/openlambda-lard"]
