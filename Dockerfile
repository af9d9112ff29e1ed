# Four images from one file:
#
#   server          echo-server as it runs in production
#   loadgen         the load generator
#   server-console  echo-server with every task visible to tokio-console, and line numbers in its task dumps
#   tokio-console   the terminal program that looks into server-console
#
#   docker build --target server --tag echo-server .
#   docker buildx build --platform linux/amd64,linux/arm64 --target server --tag echo-server .
#
# Nothing here names an architecture: each platform compiles for itself. Nothing needs BuildKit; the order of the stages is
# for the builder before it, which makes every stage down to its target.

ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
# A C library, the root certificates and a user: no shell, no package manager.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# Dependencies change rarely and take most of the time, so they are compiled before the sources are copied. The crates
# are empty for that long; what is compiled of them is thrown away, or cargo would take it, being newer than the files of
# a checkout, for the program. Tests and examples stay outside, so the manifests must not name them.
FROM ${RUST_IMAGE} AS dependencies
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY server/Cargo.toml server/
COPY loadgen/Cargo.toml loadgen/
COPY study/Cargo.toml study/
RUN for crate in server loadgen study; do \
        sed -i -E '/^\[\[(bench|example|test)\]\]/,/^$/d' "$crate/Cargo.toml" \
        && mkdir "$crate/src" && echo '#![allow(missing_docs)]' | tee "$crate/src/lib.rs" > "$crate/src/main.rs" \
        && echo 'fn main() {}' >> "$crate/src/main.rs"; \
    done
RUN cargo build --release --locked --package echo-server --package loadgen \
    && cargo clean --release --package echo-server --package loadgen

FROM dependencies AS programs
COPY server/LIMITS.md server/openapi.json server/
COPY server/src server/src
COPY loadgen/src loadgen/src
# Shown by the metric echo_build_info.
ARG REVISION=unknown
ENV ECHO_BUILD_REVISION=${REVISION}
# Without line numbers a program is a sixth of the size; the names of functions stay in its backtraces.
RUN cargo build --release --locked --package echo-server --package loadgen \
    && mkdir /programs \
    && for program in echo-server loadgen; do objcopy --strip-debug "target/release/$program" "/programs/$program"; done

FROM ${RUNTIME_IMAGE} AS server
ARG REVISION=unknown
LABEL org.opencontainers.image.title="echo-server" \
      org.opencontainers.image.description="An HTTP echo server that stays correct and fast under overload, hostile clients and restarts" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /programs/echo-server /echo-server
# By number: Kubernetes cannot see that a user with a name is not root.
USER 65532:65532
# Data on every address. The admin listener stays on the loopback address until it is told otherwise.
EXPOSE 8080
# Drains: see "How a server stops" in ARCHITECTURE.md. Whoever stops it waits longer than lame_duck and drain_grace together.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["/echo-server", "healthcheck"]
ENTRYPOINT ["/echo-server"]

FROM ${RUNTIME_IMAGE} AS loadgen
ARG REVISION=unknown
LABEL org.opencontainers.image.title="loadgen" \
      org.opencontainers.image.description="An HTTP load generator whose every report carries its own proof" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /programs/loadgen /loadgen
USER 65532:65532
# Ends the run early, with its report. It has metrics and a health check where LOADGEN_METRICS says so: the compose file.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/loadgen"]

# The console build turns on features of tokio, and compiles again what stands on tokio.
FROM dependencies AS console-dependencies
RUN cargo build --release --locked --package echo-server --features console \
    && cargo clean --release --package echo-server

FROM console-dependencies AS console-programs
COPY server/LIMITS.md server/openapi.json server/
COPY server/src server/src
COPY loadgen/src loadgen/src
ARG REVISION=unknown
ENV ECHO_BUILD_REVISION=${REVISION}
RUN cargo build --release --locked --package echo-server --features console

FROM ${RUNTIME_IMAGE} AS server-console
ARG REVISION=unknown
LABEL org.opencontainers.image.title="echo-server for tokio-console" \
      org.opencontainers.image.description="echo-server with every task visible to tokio-console; slower, not for production" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=console-programs /src/target/release/echo-server /echo-server
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["/echo-server", "healthcheck"]
ENTRYPOINT ["/echo-server"]

FROM ${RUST_IMAGE} AS tokio-console-program
RUN cargo install --locked --root /programs --version 0.1.14 tokio-console

FROM ${RUNTIME_IMAGE} AS tokio-console
LABEL org.opencontainers.image.title="tokio-console" \
      org.opencontainers.image.description="The terminal program that looks into a server built for tokio-console" \
      org.opencontainers.image.licenses="MIT"
COPY --from=tokio-console-program /programs/bin/tokio-console /tokio-console
USER 65532:65532
ENTRYPOINT ["/tokio-console"]
