# What a person types; `make help` lists it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      ?= go
# One static binary each, whatever the machine's C library.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
TOOL    := $(GO) tool -modfile=tools/go.mod
LINTER  := $(GO) tool -modfile=tools/golangci/go.mod golangci-lint

# Tested under the race detector. The rest starts processes, which it does not
# see into.
RACE    := server client cmd internal replication store test/history
REST     = $(shell $(GO) list ./... | grep -Ev '/baton/($(subst $() ,|,$(RACE) proto))(/|$$)')
DATA    ?= data
NODES   ?= 3

.DEFAULT_GOAL := help
.PHONY: help build run test test-race test-faults bench lint fmt proto fuzz clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/kvd and bin/kvctl
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/...

run: build ## Run a cluster of three pods on loopback; its data stays in ./data (NODES=, DATA=)
	@exec bin/kvd dev --nodes $(NODES) --data-dir $(DATA)

# The packages one after the other: those that start clusters want the machine
# for themselves. test/faults is among them, with a seed that it prints.
test: ## Run the tests (under ten minutes on two cores)
	$(GO) test -p 1 -timeout 9m $(REST)
	$(GO) test -p 1 -timeout 5m -race $(RACE:%=./%/...)
	cd bench && $(GO) test -timeout 2m ./...

test-race: ## Run all tests under the race detector; takes its time
	$(GO) test -p 1 -timeout 30m -race ./...

test-faults: ## Break a cluster of processes for a while (SEED=, DURATION=)
	$(GO) test ./test/faults -run TestFaults -v -count 1 -timeout 0 -args $(if $(SEED),-seed=$(SEED)) $(if $(DURATION),-duration=$(DURATION))

bench: build ## Measure against etcd, and write docs/benchmarks.md
	cd bench && $(GO) run .

lint: ## Run every check of the source
	$(GO) vet ./...
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
