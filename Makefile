# reeve: build, check, test, run. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

KUBERNETES := 1.36.6
REVISION   ?= 1
VERSION    := v$(KUBERNETES)+reeve.$(REVISION)
COMMIT     := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE       := $(shell git log -1 --format=%cd --date=format:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)

# RACE=1 builds the programs with the race detector, into bin/race.
RACE ?=
ifeq ($(RACE),1)
  BIN := bin/race
  PAYLOAD := internal/rolebin/payload-race
  GOBUILD := CGO_ENABLED=1 go build -race
else
  BIN := bin
  PAYLOAD := internal/rolebin/payload
  GOBUILD := CGO_ENABLED=0 go build
endif
MODULE  := github.com/reevehq/reeve
LDFLAGS := -s -w \
  -X $(MODULE)/internal/version.gitVersion=$(VERSION) \
  -X $(MODULE)/internal/version.gitCommit=$(COMMIT) \
  -X $(MODULE)/internal/version.buildDate=$(DATE) \
  -X k8s.io/component-base/version.gitVersion=$(VERSION) \
  -X k8s.io/component-base/version.gitMajor=1 \
  -X k8s.io/component-base/version.gitMinor=36 \
  -X k8s.io/component-base/version.gitCommit=$(COMMIT) \
  -X k8s.io/component-base/version.gitTreeState=clean \
  -X k8s.io/component-base/version.buildDate=$(DATE) \
  -X k8s.io/client-go/pkg/version.gitVersion=$(VERSION) \
  -X k8s.io/client-go/pkg/version.gitCommit=$(COMMIT)
# What commands come from where on Debian and Ubuntu: command=package, only missing ones are installed.
RUN_NEEDS  := gcc=gcc containerd=containerd runc=runc iptables=iptables ip=iproute2 curl=curl conntrack=conntrack
TEST_NEEDS := $(RUN_NEEDS) nft=nftables busybox=busybox-static /usr/lib/cni/ptp=containernetworking-plugins \
  /usr/include/stdio.h=libc6-dev ipset=ipset ps=procps \
  qemu-system-x86_64=qemu-system-x86 debootstrap=debootstrap mke2fs=e2fsprogs unshare=util-linux \
  dbus-daemon=dbus-daemon /usr/lib/python3/dist-packages/dbus=python3-dbus /usr/lib/python3/dist-packages/gi=python3-gi \
  /usr/lib/python3/dist-packages/nftables=python3-nftables

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

.PHONY: build
build: parts ## bin/reeve: static, stripped, with the other programs and images inside (RACE=1: bin/race/reeve)
	@mkdir -p $(BIN) $(PAYLOAD)
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/reeve-controlplane ./cmd/controlplane
	CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o $(BIN)/kubectl ./cmd/kubectl
	@for f in reeve-controlplane kubectl; do go run ./internal/rolebin/pack -dir $(PAYLOAD) $(BIN)/$$f; done
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o $(BIN)/reeve ./cmd/reeve

.PHONY: parts
parts: ## what the runtime carries: the images of pause and of the demo, and logpump
	CGO_ENABLED=0 go run ./internal/imagebuild -o internal/embedded/files

.PHONY: generate
generate: ## write generated code anew
	CGO_ENABLED=0 go generate ./...
	CGO_ENABLED=0 ./controlplane/generate.sh

.PHONY: check-generated
check-generated: generate ## fail when generated code is not what `make generate` writes
	@git diff --exit-code --stat -- '*.go' || { echo "generated code is stale: commit what make generate wrote"; exit 1; }

.PHONY: check
check: ## format, vet, import rules, module tidiness
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt these: $$out"; exit 1; }
	go mod tidy -diff
	CGO_ENABLED=1 go vet -race ./...
	CGO_ENABLED=1 go test -race ./tests/arch/

.PHONY: deps-run
deps-run:
	@tests/tools/need.sh $(RUN_NEEDS)

.PHONY: deps-test
deps-test:
	@tests/tools/need.sh $(TEST_NEEDS)
	@tests/tools/firewalld.sh bin/firewalld

.PHONY: tools
tools: CRITOOLS = $(shell go list -C tests/tools/critools -m -f {{.Version}} sigs.k8s.io/cri-tools)
tools: ## what tests drive and reeve does not link, from modules of their own: bin/helm, bin/critest, bin/crictl
	@mkdir -p bin
	CGO_ENABLED=0 go test -C tests/tools/critools -c -ldflags '-s -w' -o $(CURDIR)/bin/critest sigs.k8s.io/cri-tools/cmd/critest
	CGO_ENABLED=0 go build -C tests/tools/critools -ldflags '-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$(CRITOOLS)' -o $(CURDIR)/bin/crictl sigs.k8s.io/cri-tools/cmd/crictl
	CGO_ENABLED=0 go build -C tests/tools/critools -ldflags '-s -w' -o $(CURDIR)/bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo
	CGO_ENABLED=0 go build -C tests/tools/helm -ldflags '-s -w' -o $(CURDIR)/bin/helm helm.sh/helm/v3/cmd/helm

RUN ?= .
.PHONY: test
test: deps-test ## everything that can run on this machine (RUN=regexp picks tests)
	@$(MAKE) check
	@$(MAKE) build RACE=1
	@$(MAKE) check-generated
	@$(MAKE) tools
	PATH=$(CURDIR)/bin/race:$$PATH CGO_ENABLED=1 REEVE_BIN=$(CURDIR)/bin/race/reeve HELM_BIN=$(CURDIR)/bin/helm CRITEST_BIN=$(CURDIR)/bin/critest CRICTL_BIN=$(CURDIR)/bin/crictl go test -race -timeout 20m -run '$(RUN)' ./...

.PHONY: run
run: deps-run build ## start a node here, deploy a small app, fetch a page through its Service (ONCE=1: then end)
	@tests/quickstart/run.sh $(BIN)/reeve

.PHONY: bench
bench: deps-test build ## measure speed and memory as docs/PERFORMANCE.md says (RUN=regexp picks benchmarks)
	REEVE_BIN=$(CURDIR)/$(BIN)/reeve go test -run '^$$' -bench '$(RUN)' -benchtime 1x -timeout 60m ./tests/bench/

.PHONY: clean
clean: ## remove what was built
	rm -rf bin internal/rolebin/payload/*.* internal/rolebin/payload-race/*.* internal/embedded/files/{pause.tar,hello.tar,logpump}
