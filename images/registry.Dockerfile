# The server of a registry inside a cluster: docker build -f images/registry.Dockerfile .
#
# BINARIES says where the binary comes from: `compiled` compiles it here; `staged` takes it from the build context, a
# folder that `cargo xtask image` has filled. Either way it is under /out, laid out as in the image.
ARG BINARIES=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked -p openlambda-registry \
 && install -D --strip target/release/openlambda-registry /out/usr/bin/openlambda-registry

FROM scratch AS staged
COPY . /out/

FROM ${BINARIES} AS binaries

FROM debian:bookworm-slim
COPY --from=binaries /out/ /
LABEL org.opencontainers.image.title="openlambda-registry" org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["/usr/bin/openlambda-registry"]
