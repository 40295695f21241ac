# vrouter: what to run. Each target works as the first command on a fresh Debian 12 with Swift 6.3, as root or as a user with sudo.

PREFIX  ?= /usr/local
DESTDIR ?=
SWIFT   ?= swift

# Only what needs root gets it, so that .build stays yours. PATH is kept: sudo's own would hide Swift.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")

# ---- Debian packages: what the build needs, what a demonstration or a test runs, and what is needed to check and to package.
BUILD_PACKAGES := libbpf-dev libmnl-dev libnftnl-dev libpcap-dev linux-libc-dev pkg-config
DEMO_PACKAGES  := iproute2 iputils-ping
TEST_PACKAGES  := bind9-dnsutils binutils bpftool conntrack curl dnsmasq-base ethtool iperf3 iproute2 iptables iputils-arping iputils-ping iputils-tracepath jq mtr-tiny \
                  nftables procps python3 python3-jsonschema python3-yaml tcpdump traceroute \
                  busybox-static cpio kmod libreadline8 libssh-gcrypt-4 qemu-system-x86 systemd
LINT_PACKAGES  := shellcheck
BENCH_PACKAGES := dpdk-dev gcc iperf3 jq libc6-dev openvswitch-switch
INSTALL_PACKAGES := binutils jq

# Asks dpkg in one call (10 ms). The package lists are updated only if apt knows no such package or a version that has gone.
define ensure
@have=$$(dpkg-query --show --showformat '$${Package}=$${db:Status-Status} ' $(1) 2>/dev/null || true); missing=; \
for package in $(1); do case " $$have" in *" $$package=installed "*) ;; *) missing="$$missing $$package" ;; esac; done; \
[ -n "$$missing" ] || exit 0; \
echo "Installing Debian packages:$$missing"; \
get() { $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$$@"; }; \
log=$$(mktemp); \
get install --yes --no-install-recommends $$missing >"$$log" 2>&1 \
|| { get update >"$$log" 2>&1 && get install --yes --no-install-recommends $$missing >>"$$log" 2>&1; } \
|| { tail -n 20 "$$log" >&2; rm -f "$$log"; exit 1; }; rm -f "$$log"
endef

# ---- A build for use: the Swift runtime is linked in, so that it runs where no Swift is installed. It does
# need the packages libbpf1, libmnl0 and libnftnl11, which those above bring along.
RELEASE := -c release --static-swift-stdlib --product vrouter
BINARY  := .build/release/vrouter

.PHONY: help deps build install uninstall demo bench test lint clean deps-build deps-demo deps-bench deps-test deps-lint deps-install

help:
	@echo 'vrouter turns a Linux host into the router between VLANs.'
	@echo
	@echo '  make demo       two VLANs, containers in them, and a router: built in network namespaces, tried, removed'
	@echo '  make build      the program: $(BINARY)'
	@echo '  make install    the program, shell completions and manual page, below PREFIX=$(PREFIX) (DESTDIR is honoured)'
	@echo '  make uninstall  and away again'
	@echo '  make test       lint, unit tests, system tests on this kernel, and again on the stock Debian kernel in a virtual machine'
	@echo '                  VM=no leaves the virtual machine out, VM=all runs the long tests there, too, VERBOSE=1 shows every test, SUITES="KernelTests ..." runs only those'
	@echo '  make lint       format and shell scripts'
	@echo '  make bench      how fast this machine routes, beside Open vSwitch and others; writes benchmarks/RESULTS.md; ten minutes'
	@echo '                  BENCH="--quick" gives options of `vrouter bench`, PEERS="" leaves the others out'
	@echo '  make deps       the Debian packages for all of these (each target installs its own, too)'
	@echo '  make clean      removes what was built, and the kernel that the virtual machine booted'

deps: deps-build deps-demo deps-test deps-lint deps-install
deps-build:
	$(call ensure,$(BUILD_PACKAGES))
deps-demo:
	$(call ensure,$(DEMO_PACKAGES))
deps-bench:
	$(call ensure,$(BENCH_PACKAGES))
deps-test:
	$(call ensure,$(TEST_PACKAGES))
	@# Only unpacked: installed, they would begin to run here.
	@[ -x .build/test-tools/usr/sbin/bird ] && [ -x .build/test-tools/usr/sbin/ufw ] || \
	    { mkdir -p .build/test-tools && cd .build/test-tools && \
	    { apt-get -qq download bird2 ufw || { $(SUDO) apt-get -qq update && apt-get -qq download bird2 ufw; }; } && \
	    for package in bird2_*.deb ufw_*.deb; do dpkg -x "$$package" . && rm "$$package"; done; }
deps-lint:
	$(call ensure,$(LINT_PACKAGES))
deps-install:
	$(call ensure,$(INSTALL_PACKAGES))

build: deps-build
	$(SWIFT) build $(RELEASE)
	@echo "$(BINARY): $$(numfmt --to=iec-i --suffix=B --format=%.1f $$(stat -L -c %s $(BINARY)))"

demo: deps-demo build
	$(SUDO) $(BINARY) lab

# ---- Measurements. What is written belongs to whoever runs make.
BENCH ?=
PEERS ?= reflector reflector-owned ovs testpmd

bench: deps-bench build
	$(SUDO) benchmarks/forwarding/run.sh --write --peers "$(PEERS)" $(BENCH)

# ---- Installation. `make install` as a user asks for root only to write where the user may not; after `make build`,
# `sudo make install` does as well: root by way of sudo builds nothing, or files in your .build would become root's.
BINDIR  := $(DESTDIR)$(PREFIX)/bin
DATADIR := $(DESTDIR)$(PREFIX)/share
INSTALLED := $(BINDIR)/vrouter $(DATADIR)/man/man8/vrouter.8.gz \
             $(DATADIR)/bash-completion/completions/vrouter \
             $(DATADIR)/zsh/site-functions/_vrouter \
             $(DATADIR)/fish/vendor_completions.d/vrouter.fish \
             $(DATADIR)/vrouter/vrouter.schema.json
write = write() { if mkdir -p $(BINDIR) $(DATADIR) 2>/dev/null && [ -w $(BINDIR) ] && [ -w $(DATADIR) ]; \
        then "$$@"; else $(SUDO) "$$@"; fi; }

install: deps-install $(if $(SUDO_USER),,build)
	@[ -x $(BINARY) ] || { echo "Run 'make build' as yourself first, then 'sudo make install'." >&2; exit 1; }
	@set -eu; files=$$(mktemp -d); trap 'rm -rf "$$files"' EXIT; chmod 755 "$$files"; \
	strip -o "$$files/vrouter" $(BINARY); \
	for shell in bash zsh fish; do $(BINARY) --generate-completion-script $$shell >"$$files/$$shell"; done; \
	$(BINARY) --experimental-dump-help >"$$files/help.json"; \
	jq --raw-output --from-file packaging/manual.jq "$$files/help.json" | gzip -9n >"$$files/vrouter.8.gz"; \
	$(write); put() { write install -D -m "$$1" "$$files/$$2" "$$3"; echo "$$3"; }; \
	put 755 vrouter $(word 1,$(INSTALLED)); \
	put 644 vrouter.8.gz $(word 2,$(INSTALLED)); \
	put 644 bash $(word 3,$(INSTALLED)); \
	put 644 zsh $(word 4,$(INSTALLED)); \
	put 644 fish $(word 5,$(INSTALLED)); \
	cp packaging/vrouter.schema.json "$$files"; \
	put 644 vrouter.schema.json $(word 6,$(INSTALLED)); \
	echo "$(word 1,$(INSTALLED)): $$(numfmt --to=iec-i --suffix=B --format=%.1f $$(stat -c %s $(word 1,$(INSTALLED)))), without the symbols that $(BINARY) has"

uninstall:
	@$(write); write rm -f $(INSTALLED)

# ---- Checks. The virtual machine comes last: it takes longest, and what fails in it has mostly failed before.
# Variables on make's command line reach Tests/run as environment: its first lines tell which there are.
SUITES ?=

test: deps-test lint deps-build
	$(SWIFT) build --build-tests
	$(SWIFT) build $(RELEASE)
	Tests/hot-path.py $(BINARY)
	@PRODUCT=$(BINARY) Tests/run $(SUITES)

FORMATTED := $(wildcard Package.swift Sources Tests Plugins benchmarks)
SCRIPTS    = $(shell grep -rlsE --exclude-dir=.build '^\#!.*\b(ba|da|busybox )?sh$$' .ci Tests packaging benchmarks)

lint: deps-lint
	$(SWIFT) format lint --strict --parallel --recursive $(FORMATTED)
	shellcheck $(SCRIPTS)

clean:
	rm -rf .build .vm
