# For those who have a container engine: docker build -t baton .
# "make image" gives the same image without one.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
# As the Makefile gives them: docker build $(make -s build-args) -t baton .
ARG VERSION=dev COMMIT= DATE=
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT -X main.date=$DATE" \
    -o /out/ ./cmd/kvd ./cmd/kvctl

# Static binaries need nothing else: no shell, no libraries, no other files.
FROM scratch
COPY --from=build /out/ /usr/local/bin/
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 7400 7401 7402
ENTRYPOINT ["/usr/local/bin/kvd"]
CMD ["serve"]
