# After `make images`:  docker build -f images/cache-node.Dockerfile -t docker.io/clusterdb/cache-node:0.1.0 target/images
FROM scratch
COPY cache-node /cache-node
COPY nsswitch.conf /etc/nsswitch.conf
USER 65532:65532
EXPOSE 6379 7379 9121
LABEL org.opencontainers.image.title="cache-node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/clusterdb/cache"
ENTRYPOINT ["/cache-node"]
