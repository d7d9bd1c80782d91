# make help lists the targets. Nothing here needs more than Go, Node and Python;
# tests of Redis are skipped where there is no redis-server ('make need' gets it),
# those of Kubernetes where its programs are not built ('make kube-bin' does).
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CGO_ENABLED ?= 0
GO      ?= go
PYTHON  ?= python3
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
DIR     ?= $(CURDIR)/.mlaas
MINUTES ?= 60

.PHONY: help need build demo up down test check lint unit kube-bin python e2e e2e-layouts e2e-code e2e-kube simulate torture torture-short cross gen fuzz bench bench-kube bench-paper bench-tracker clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: page ## bin/mlaas, one static binary, with the page where npm is there
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/mlaas ./cmd/mlaas

# The page is built where npm is and its sources have changed; without npm, or
# with PAGE=no, the binary has the one of before, or one that says how to build it.
PAGE ?= yes
.PHONY: page web web-check e2e-web
page:
	@if [ "$(PAGE)" = no ]; then :; elif command -v npm > /dev/null; then $(MAKE) --no-print-directory web/dist/page/index.html; \
	  else echo "page: no npm here, so bin/mlaas has no page but one that says how to build it"; fi

web/app/node_modules/.done: web/app/package.json web/app/package-lock.json
	@echo "page: npm ci"
	@cd web/app && npm ci --no-progress --loglevel=error && touch node_modules/.done

web/dist/page/index.html: web/app/node_modules/.done management/testdata/openapi.yaml web/app/index.html web/app/vite.config.ts web/app/size.js $(shell find web/app/src web/app/public -type f -not -name '*.gen.ts')
	@echo "page: its sources have changed"
	@cd web/app && npm run -s build

web: web/dist/page/index.html ## the page alone, into web/dist/page, with what its first load costs
	@cd web/app && node size.js

web-check: web/dist/page/index.html ## unit tests of the page
	cd web/app && npm test -s

e2e-web: need build ## the page in a real browser, against the built binary
	cd web/app && MLAAS_BIN=$(CURDIR)/bin/mlaas npm run -s e2e

demo: build ## set everything up, train MNIST on 1 parameter server and 2 workers, show it live
	@bash examples/demo.sh

up: build ## leave the platform running in the foreground, data in .mlaas
	bin/mlaas up --dir $(DIR)

down: ## end the platform of 'make up' and every replica
	bin/mlaas down --dir $(DIR)

need: ## what the tests need besides, such as redis-server
	@.ci/need

test: need check web-check python e2e-layouts e2e-web torture-short ## the whole suite; on Kubernetes too if 'make kube-bin' was there
	@if [ "$$MLAAS_KUBE_BIN" != - ] && kubetest/build.sh built; then $(MAKE) e2e-kube; fi

check: lint unit ## lint and unit tests: before every commit

lint: bin/golangci-lint ## golangci-lint, gofmt
	bin/golangci-lint run ./...

# Built by its own module, so that its dependencies are not ours.
bin/golangci-lint: tools/go.mod
	@mkdir -p bin
	cd tools && $(GO) build -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# A real S3 server for tests and benches, of a module of its own for the same reason.
bin/versitygw: tools/s3/go.mod
	@mkdir -p bin
	cd tools/s3 && $(GO) build -trimpath -ldflags '-s -w' -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw

kube-bin: ## the programs of Kubernetes for clusters under test, once into the user's cache
	@kubetest/build.sh > /dev/null

unit: bin/versitygw ## unit tests under the race detector
	MLAAS_KUBE_BIN=- CGO_ENABLED=1 $(GO) test -race -timeout 15m $$($(GO) list ./... | grep -v -e /e2e$$ -e /e2e/torture -e /bench/)

bin/pytest/.done: python/pyproject.toml
	$(PYTHON) -m venv bin/pytest && bin/pytest/bin/pip install -q uv
	bin/pytest/bin/uv pip install -q --python bin/pytest/bin/python pytest ipykernel jedi-language-server debugpy numpy scikit-learn tensorflow-cpu pillow pyarrow && touch $@

python: bin/pytest/.done ## tests of the Python package
	cd python && ../bin/pytest/bin/python -m pytest -q -p no:cacheprovider tests

e2e: build ## the scripts of e2e/, against the built binary
	MLAAS_BIN=$(CURDIR)/bin/mlaas $(GO) test -count=1 -timeout 20m ./e2e

# Replicas see little of this machine; /opt they do.
CODE_ENVIRONMENTS ?= $(if $(filter 0,$(shell id -u)),/opt/mlaas-e2e-code,$(HOME)/.cache/mlaas/e2e-code)
e2e-code: build bin/pytest/.done ## the gallery and the hooks' tests with every framework, in versions of now and older ones
	UV=$(CURDIR)/bin/pytest/bin/uv e2e/code/environments.sh $(CODE_ENVIRONMENTS)
	e2e/code/frameworks.sh $(CODE_ENVIRONMENTS)
	MLAAS_BIN=$(CURDIR)/bin/mlaas MLAAS_CODE_ENVIRONMENTS=$(CODE_ENVIRONMENTS) MLAAS_CODE_DATA=$$(examples/get_mnist.sh) \
	  $(GO) test -count=1 -timeout 60m -v ./e2e/code -update

SEEDS ?= 1000
e2e-kube: need build kube-bin bin/versitygw bin/pytest/.done ## every test that runs Kubernetes clusters; only root may
	@[ "$$(id -u)" = 0 ] || { echo "e2e-kube: skipped: clusters need network namespaces, which only root may make"; exit 0; }; \
	MLAAS_BIN=$(CURDIR)/bin/mlaas CGO_ENABLED=1 CI=true $(GO) test -race -p 1 -count=1 -timeout 20m \
	  $$(grep -rlE --include='*_test.go' '^package kubetest$$|"mlaas.dev/mlaas/internal/kubetest"' . | xargs -n1 dirname | sort -u)

simulate: ## SEEDS lives of a platform in which everything goes wrong that may
	$(GO) test ./e2e/bubble -count=1 -timeout 60m -run '^TestSimulate' -seed $${SEED:-$$(date +%s)} -seeds $(SEEDS)

e2e-layouts: build bin/versitygw ## the same scripts in every layout, over a real Redis and a real S3 server
	@in_layout() { MLAAS_LAYOUT=$$1 MLAAS_BIN=$(CURDIR)/bin/mlaas $(GO) test -count=1 -timeout 20m ./e2e; }; \
	echo "MLAAS_LAYOUT=one"; in_layout one || exit 1; \
	three=$$(mktemp); trap 'rm -f "$$three"' EXIT; \
	in_layout three > "$$three" 2>&1 & \
	echo "MLAAS_LAYOUT=two-of-each, and beside it three"; in_layout two-of-each; two=$$?; \
	wait $$!; both=$$(($$two + $$?)); cat "$$three"; exit $$both

bin/torture: build bin/versitygw
	$(GO) build -tags failpoints -trimpath -o bin/mlaas-failpoints ./cmd/mlaas
	$(GO) build -o bin/torture ./e2e/torture

.PHONY: bin/torture
torture: bin/torture ## break the platform in every way for MINUTES, in every layout, and count what was lost
	bin/torture -minutes $(MINUTES)

torture-short: bin/torture ## the same, each fault at least once: some 8 minutes
	bin/torture -short

cross: ## the binary for linux and darwin, amd64 and arm64
	@for os in linux darwin; do for arch in amd64 arm64; do \
	  echo "GOOS=$$os GOARCH=$$arch"; GOOS=$$os GOARCH=$$arch $(GO) build -o /dev/null ./cmd/mlaas || exit 1; done; done

gen: ## everything that is made from the code: OpenAPI, state picture, goldens
	$(GO) generate ./...
	$(GO) test ./management -run OpenAPI -update
	$(GO) test ./contractor/... -update

chart: ## the Helm chart, rendered as Helm does; 'make e2e-kube' installs it
	cd deploy/helm && $(GO) test .

fuzz: ## every fuzz target for 20 s
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -rhoE '^func Fuzz[A-Za-z]+' $$p/*_test.go | sed 's/func //'); do \
	    echo "$$p $$f"; $(GO) test $$p -run xxx -fuzz "^$$f$$" -fuzztime 20s || exit 1; done; done

bench: build bin/versitygw ## what is promised about speed, beside its limit
	$(GO) run ./bench/all -bin bin/mlaas

bench-kube: build need kube-bin ## what is promised about Kubernetes clusters, beside its limit; only root may
	$(GO) run ./bench/kube -bin $(CURDIR)/bin/mlaas

bench-tracker: ## what being tracked costs a step; after make e2e-code, whose environments it takes
	$(GO) run ./bench/tracker -environments $(CODE_ENVIRONMENTS)

bench-paper: build ## the paper's figure 6.1, short
	$(GO) run ./bench/paper -bin $(CURDIR)/bin/mlaas

clean: ## remove what make made
	rm -rf bin dist web/dist/page
