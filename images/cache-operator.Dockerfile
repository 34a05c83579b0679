# After `make images`:  docker build -f images/cache-operator.Dockerfile -t docker.io/clusterdb/cache-operator:0.1.0 target/images
FROM scratch
COPY cache-operator /cache-operator
COPY nsswitch.conf /etc/nsswitch.conf
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080
LABEL org.opencontainers.image.title="cache-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/clusterdb/cache"
ENTRYPOINT ["/cache-operator"]
