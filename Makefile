# What a person types; `make help` lists it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# The commit's own time: the clock would make each build another one.
DATE    ?= $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
GO      ?= go
# One static binary each, whatever the machine's C library.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)'
TOOL    := $(GO) tool -modfile=tools/go.mod
# With a cache of this checkout's own: in a shared one it finds what it said of the
# same source in another checkout, under paths that may not exist any more.
LINTER  := GOLANGCI_LINT_CACHE=$(CURDIR)/bin/lint $(GO) tool -modfile=tools/golangci/go.mod golangci-lint

# Tested under the race detector. The rest starts processes, which it does not see
# into, or explores functions that run alone.
RACE    := server client cmd internal kubernetes recovery replication store test/history test/oracle
ALONE   := replication/internal/policy internal/lint
RACED   = $(shell $(GO) list $(RACE:%=./%/...) | grep -Ev '/baton/($(subst $() ,|,$(ALONE)))$$')
REST    = $(shell $(GO) list ./... | grep -Ev '/baton/($(subst $() ,|,$(RACE) proto))(/|$$)') $(ALONE:%=./%)
DATA    ?= data
NODES   ?= 3

.DEFAULT_GOAL := help
.PHONY: help build run test test-race test-etcd test-older test-faults test-security bench bench-secure lint fmt proto fuzz clean explore simulate simulate-mutations \
	scenarios image image-twice sbom checksums modules build-args e2e e2e-local e2e-test kubernetes-on-baton

help: ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/kvd and bin/kvctl
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/...

run: build ## Run a cluster of three pods on loopback; its data stays in ./data (NODES=, DATA=)
	@exec bin/kvd dev --nodes $(NODES) --data-dir $(DATA)

# The packages one after the other: those that start clusters want the machine
# for themselves. test/faults is among them, with a seed that it prints. Within a
# package, tests that run side by side mostly wait, so there are more of them than
# processors.
test: ## Run the tests (under ten minutes on two cores)
	$(GO) test -p 1 -parallel 4 -timeout 9m $(REST)
	$(GO) test -p 1 -parallel 4 -timeout 8m -race $(RACED)
	cd bench && $(GO) test -timeout 2m ./...

test-race: ## Run all tests under the race detector; takes its time
	$(GO) test -p 1 -timeout 30m -race ./...

# A module of its own: it builds the real etcd. A result that go test remembers
# would be of another kvd.
test-etcd: ## Compare the etcd API with the real etcd's, and run etcd's clients on it
	cd test/etcd && $(GO) test -p 1 -count 1 -timeout 5m -race ./...

# Which of the two tests says something depends on whether that version had users.
test-older: ## Run clusters of which one pod is of an earlier commit, with users and without (OLDER=)
	rm -rf bin/older && mkdir -p bin/older/source
	git archive $(OLDER) | tar -x -C bin/older/source
	cd bin/older/source && CGO_ENABLED=0 $(GO) build -o ../kvd ./cmd/kvd
	rm -rf bin/older/source
	$(GO) test ./test/process -run AmongOlderPods -v -count 1 -args -older=$(CURDIR)/bin/older/kvd
	cd test/etcd && $(GO) test ./rights -v -count 1 -timeout 0 -args -older=$(CURDIR)/bin/older/kvd

test-faults: ## Break a cluster of processes for a while (SEED=, DURATION=)
	$(GO) test ./test/faults -run TestFaults -v -count 1 -timeout 0 -args $(if $(SEED),-seed=$(SEED)) $(if $(DURATION),-duration=$(DURATION))

# What a stranger sends, over loopback, and what others notice of it.
test-security: ## Attack a cluster of processes; takes minutes (RUN=)
	$(GO) test ./test/security -run '$(RUN)' -v -count 1 -timeout 0 -args -attack

# What pods decide, in a model. Each event more takes about seven times as long.
DEPTH ?= 5
explore: ## Try what pods decide in every order of faults; takes two minutes (DEPTH=)
	$(GO) test ./replication/internal/policy -run '^TestExplore$$' -v -count 1 -timeout 0 -args -depth $(DEPTH)

# Whole pods in virtual time, see test/simulate. Without HOURS or SEEDS: for ten
# minutes of processor time. Without SEED: seeds of today; SEED=0: those that are
# kept in testdata, and then from 1 on.
simulate: ## Simulate clusters that break, in virtual time (SEED=, SEEDS=, HOURS=, LENGTH=, ARGS=)
	$(GO) test ./cmd/kvd -run '^TestSimulate$$' -v -count 1 -timeout 0 -args -busy 10m \
		-seed $(or $(SEED),$(shell date +%y%m%d)0000) $(if $(SEEDS),-seeds $(SEEDS)) $(if $(HOURS),-hours $(HOURS)) \
		$(if $(LENGTH),-length $(LENGTH)) $(ARGS)

simulate-mutations: ## Build bugs into kvd, and see that the simulation finds each; takes an hour
	$(GO) run ./test/simulate/mutate

# The container image. ARCH is of the nodes; an image for another one than this
# machine's only needs ARCH=arm64.
IMAGE ?= baton:latest
ARCH  ?= $(shell $(GO) env GOARCH)
ARCHIVE = bin/baton.tar
image: ## Pack the container image into bin/baton.tar; needs no container engine (IMAGE=, ARCH=)
	@mkdir -p bin/image
	GOOS=linux GOARCH=$(ARCH) $(BUILD) -o bin/image/ ./cmd/kvd ./cmd/kvctl
	@$(GO) run ./internal/image -tag $(IMAGE) -arch $(ARCH) -version '$(VERSION)' -commit '$(COMMIT)' -date '$(DATE)' -o $(ARCHIVE) bin/image/kvd bin/image/kvctl

# Equal for equal sources, as the image is. Sign the checksums, and the image's
# digest.
SBOM = bin/baton.cdx.json
sbom: build image ## Write what the binaries and the image are made of, as CycloneDX, into bin/baton.cdx.json
	@$(GO) run ./internal/sbom -version '$(VERSION)' -date '$(DATE)' -o $(SBOM) bin/kvd bin/kvctl $(ARCHIVE)

checksums: sbom ## Write bin/SHA256SUMS, of the binaries, the image and the SBOM
	cd bin && sha256sum kvd kvctl $(notdir $(ARCHIVE) $(SBOM)) > SHA256SUMS && cat SHA256SUMS

# After each change of a module: a test compares it with what is linked.
modules: build ## Write when the linked modules were made, for the test that says which are old
	$(GO) version -m bin/kvd bin/kvctl | awk '$$1 == "dep" { print $$2 "@" $$3 }' | sort -u | \
		xargs $(GO) list -mod=mod -m -f '{{.Time.UTC.Format "2006-01-02"}} {{.Path}} {{.Version}}' > internal/sbom/testdata/modules.txt

# The second time from nothing, with a build cache of its own.
image-twice: ## Build the image twice and compare the two
	@$(MAKE) -s image ARCHIVE=bin/baton-1.tar
	@cache=$$(mktemp -d); GOCACHE=$$cache $(MAKE) -s image ARCHIVE=bin/baton-2.tar; chmod -R u+w "$$cache"; rm -rf "$$cache"
	cmp bin/baton-1.tar bin/baton-2.tar && rm bin/baton-1.tar bin/baton-2.tar

build-args: ## Print what docker build is told of the version
	@echo --build-arg VERSION='$(VERSION)' --build-arg COMMIT='$(COMMIT)' --build-arg DATE='$(DATE)'

# The tests on a Kubernetes; docs/operations.md says how with kind.
#   KUBECONFIG  where it is
#   IMAGE_LOAD  a command that takes an archive's path and gives the image to the nodes
#   KUBE_DIR    the scripts of a local test Kubernetes, which also break nodes
RUN        ?= .
KUBE_DIR   ?= ../shared/kube
KUBE_NODES ?= 4
e2e-test: # the program alone
	CGO_ENABLED=0 $(GO) test -c -tags e2e -o bin/e2e.test ./test/e2e

e2e: build image e2e-test ## Run the tests on the Kubernetes of KUBECONFIG (RUN=, IMAGE_LOAD=)
	$(if $(IMAGE_LOAD),$(IMAGE_LOAD) $(ARCHIVE))
	bin/e2e.test -test.v -test.timeout 0 -test.run '$(RUN)' -version '$(VERSION)' $(E2E_ARGS)

# hostPath volumes are root's, and fsGroup does not change them. The status of
# load is that of a node that may not exist; the tests look at the version.
e2e-local: image ## Start the test Kubernetes of KUBE_DIR, and run the tests on it (RUN=, KUBE_NODES=)
	NODES=$(KUBE_NODES) $(KUBE_DIR)/up
	$(KUBE_DIR)/run sh -c 'chmod 0777 $$KUBE_HOME/volumes/*'
	-$(KUBE_DIR)/load $(ARCHIVE)
	$(GO) build -C tools/policies -o $(CURDIR)/bin/policies .
	$(KUBE_DIR)/run $(MAKE) e2e E2E_ARGS='-kube-dir $(abspath $(KUBE_DIR)) -dns 198.18.0.1:53 -policies bin/policies $(E2E_ARGS)'

# Its own etcd runs beside it, and stays empty.
kubernetes-on-baton: image build ## Start the test Kubernetes of KUBE_DIR with its state in Baton, and break Baton under it
	CGO_ENABLED=0 $(GO) test -c -tags e2e -o bin/datastore.test ./test/datastore
	$(KUBE_DIR)/up --network
	$(KUBE_DIR)/run bin/datastore.test -test.v -test.timeout 30m -kube-dir $(abspath $(KUBE_DIR))

scenarios: ## Write docs/scenarios.md from the tests
	$(GO) test ./test/scenarios -run TestPage -count 1 -args -write

bench: build ## Measure against etcd, and write docs/benchmarks.md
	cd bench && $(GO) run .

bench-secure: build ## The same of callers with TLS and a user, in both; writes docs/benchmarks-secure.md
	cd bench && $(GO) run . -secure -out ../docs/benchmarks-secure.md

lint: ## Run every check of the source
	$(GO) vet -tags e2e ./...
	$(LINTER) run ./...
	$(TOOL) buf lint
	$(GO) test ./internal/lint

fmt: ## Format the source
	gofmt -w $(shell git ls-files '*.go')

proto: ## Generate the code of proto/ again
	$(TOOL) buf generate

# Each target for FUZZTIME, one after the other.
FUZZTIME ?= 30s
fuzz: ## Run every fuzz target for FUZZTIME
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

clean: ## Remove what was built (not ./data)
	rm -rf bin
