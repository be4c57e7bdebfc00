# Everything that is built or downloaded for tests is kept in KUBELET_CACHE,
# ~/.cache/kubelet-dev by default, and reused.

STAGES := test/stages.sh

# API server, scheduler and kubectl judge a node by the version of its kubelet:
# this is the upstream release that this one stands in for.
VERSION ?= v1.37.2
V := -X k8s.io/component-base/version
LDFLAGS = -s -w $V.gitVersion=$(VERSION) $V.gitMajor=1 $V.gitMinor=37 $V.gitCommit=$(shell git rev-parse HEAD 2>/dev/null)
OUT ?= bin/kubelet

.DEFAULT_GOAL := help
.PHONY: help build run test test-unit test-race test-root test-diff test-node test-cluster test-v2 bench conformance conformance-slow conformance-docs fuzz lint setup clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/kubelet (OUT=file for another place, RACE=1 with the race detector)
	go build $(if $(filter 1,$(RACE)),-race) -ldflags '$(LDFLAGS)' -o $(OUT) ./cmd/kubelet

run: ## run a few sample pods on this machine, installing what is missing (root)
	@hack/run.sh

test: ## pass every test on a fresh machine, installing what is missing (root)
	@$(STAGES) test

test-unit: ## unit tests, layers and habits; no root
	@$(STAGES) unit

test-race: ## unit tests under the race detector
	@$(STAGES) race

test-root: ## unit tests with those that need root: mounts, cgroups, namespaces
	@$(STAGES) root

test-diff: ## compare defaults and verdicts with upstream's over a corpus
	@$(STAGES) diff

test-node: ## static pods on real containerd, 2.4 and 1.6 (root; CONTAINERD=2.4 for one, RUNTIME=crun)
	@$(STAGES) node

test-cluster: ## a real control plane, on containerd 2.4 and 1.6 (root; CONTAINERD=2.4 for one, RUNTIME=crun)
	@$(STAGES) cluster

test-v2: ## cgroup v2 and the systemd driver, in a virtual machine (root)
	@$(STAGES) v2

bench: ## measure against bare CRI calls and the upstream kubelet (root; SHORT=1, SCENARIO=1,kill, KUBELET=path …)
	@$(STAGES) bench

conformance: ## judge the kubelet by the upstream e2e suite's [NodeConformance] (root; FOCUS='EmptyDir', with ANY=1 of the whole suite, KUBELET=path|upstream CONTAINERD=1.6 RUNTIME=crun)
	@$(STAGES) conformance

conformance-slow: ## the same with the tests labelled [Slow] and [Serial]
	@SLOW=1 $(STAGES) conformance

conformance-docs: ## write the recorded results into docs/compatibility.md
	@go run ./test/conformance -docs docs/compatibility.md

fuzz: ## fuzz each parser of outside bytes for FUZZTIME (10s)
	@$(STAGES) fuzz

lint: ## gofmt, go vet, shell syntax
	@$(STAGES) lint

setup: ## install and build all that the tests need, without testing (root)
	@$(STAGES) setup

clean: ## remove built files and the logs of failed tests (KUBELET_CACHE stays)
	rm -rf bin "$${KUBELET_TEST_ARTIFACTS:-/tmp/kubelet-test}"
