# The API and the dashboard, built without libtorch. Workers run elsewhere, from Dockerfile.worker.
FROM node:22-bookworm-slim AS packages
WORKDIR /build
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts

# ONNX Runtime, which checks exported students: the version that the tests use.
FROM python:3.12-slim-bookworm AS onnxruntime
WORKDIR /build
COPY requirements requirements
COPY scripts scripts
RUN scripts/setup onnxruntime \
    && install -D --target-directory=/onnxruntime .deps/onnxruntime/packages/onnxruntime/capi/libonnxruntime.so.*

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
COPY --from=packages /build/node_modules node_modules
RUN cargo build --release --locked --package distillery

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home distillery \
    && install -d -o distillery /var/lib/distillery /datasets
COPY --from=build /build/target/release/distillery /usr/local/bin/
COPY --from=onnxruntime /onnxruntime/ /usr/local/lib/
RUN cd /usr/local/lib && ln -s libonnxruntime.so.* libonnxruntime.so
USER distillery
ENV DISTILLERY_LISTEN=0.0.0.0:8080 \
    DISTILLERY_DATA_DIR=/var/lib/distillery \
    DISTILLERY_DATASETS_DIR=/datasets \
    DISTILLERY_ONNXRUNTIME=/usr/local/lib/libonnxruntime.so \
    DISTILLERY_WORKERS=0
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD curl -fsS http://127.0.0.1:8080/readyz
ENTRYPOINT ["distillery"]
CMD ["serve"]
