# The worker of one node: docker build -f images/node-agent.Dockerfile .
#
# BINARIES says where the binaries come from: `compiled` compiles them here; `staged` takes them from the build context, a
# folder that `cargo xtask image` has filled. Either way they are under /out, laid out as in the image.
ARG BINARIES=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip
COPY . .
RUN pip download --no-deps --only-binary :all: --require-hashes --dest /tmp/uv --requirement images/uv.txt \
 && python3 -m zipfile -e /tmp/uv/*.whl /tmp/uv/unpacked \
 && install -D /tmp/uv/unpacked/*.data/scripts/uv /out/usr/bin/uv
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked -p openlambda-node-agent -p openlambda-runtime-native \
 && install -D --strip target/release/openlambda-node-agent /out/usr/bin/openlambda-node-agent \
 && install -D --strip target/release/lib_openlambda.so /out/usr/lib/openlambda/runtime/_openlambda.abi3.so \
 && install -m 644 runtime/*.py /out/usr/lib/openlambda/runtime/

FROM scratch AS staged
COPY . /out/

FROM ${BINARIES} AS binaries

FROM debian:bookworm-slim
# Handlers run on this Python and see this root, read-only.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=binaries /out/ /
ENV OPENLAMBDA_RUNTIME_DIR=/usr/lib/openlambda/runtime
LABEL org.opencontainers.image.title="openlambda-node-agent" org.opencontainers.image.licenses="Apache-2.0"
# Root, for it makes namespaces, mounts and cgroups; what it starts for handlers is not.
ENTRYPOINT ["/usr/bin/openlambda-node-agent"]
