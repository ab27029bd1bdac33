# SPDX-License-Identifier: GPL-2.0-only
#
# spicebd. The module for one kernel is built by Kbuild (KDIR=…), the programs
# by userhelper/Makefile; everything else here only calls what is in selftests/.

O ?= $(CURDIR)/build
KDIR ?= /lib/modules/$(shell uname -r)/build
KERNELS := 6.1 6.12 7.3
VM := selftests/vm

.PHONY: all kmod userhelper help
all: kmod userhelper

help:
	@echo 'make                  module for KDIR ($(KDIR)) and the programs'
	@echo 'make kmod|userhelper  one of the two'
	@echo 'make install          programs, units, udev rules, module (DESTDIR=, prefix=)'
	@echo 'make deb              Debian packages, in build/deb'
	@echo 'make demo             the whole way, shown in a test machine'
	@echo 'make check            the tests of a submission'
	@echo 'make check-full       all other tests, in resumable parts (PART=name for one)'
	@echo 'make soak             faults at random, data verified (MINUTES=, KILLS=, SEED=, KERNEL=)'
	@echo 'make check-debug      the module on a kernel that finds faults, in resumable parts (PART=name)'
	@echo 'make bench            measure, beside nbd.ko, ublk and Spice (KERNEL=, TABLES=cost,speed,…)'
	@echo 'make fuzz             fuzz the parsers (TARGET=, SECONDS= for each)'
	@echo 'make setup            install what tests and builds need (apt, kernels)'
	@echo 'make clean'

# A copy is built, so that the sources stay clean and several kernels fit. An O of ours
# would be the kernel tree's, too.
kmod:
	@mkdir -p $(O)/kmod-host
	@cp -ru Kbuild kmod uapi $(O)/kmod-host/
	$(MAKE) -C $(KDIR) M=$(O)/kmod-host O= modules

userhelper:
	+$(MAKE) -C userhelper O=$(O)

.PHONY: setup $(KERNELS:%=kmod-%)
setup:
	$(VM)/setup all

$(KERNELS:%=kmod-%): kmod-%:
	$(VM)/setup packages kernel-$*
	$(VM)/kbuild $* --strict

# Of the tree as it is, in a copy: packages are built where nothing else was.
.PHONY: deb
deb:
	packaging/deb $(O)/deb $(DEB_VERSION)

.PHONY: demo check check-full check-debug soak bench fuzz
, := ,
bench:
	$(VM)/setup packages
	selftests/bench/run --kernel $(or $(KERNEL),6.12) $(subst $(,), ,$(TABLES))

demo:
	selftests/demo/run

fuzz:
	$(VM)/setup packages
	+$(MAKE) -s -C selftests/fuzz run $(if $(TARGET),TARGET='$(TARGET)') SECONDS=$(or $(SECONDS),60)

soak:
	selftests/soak/run --kernel $(or $(KERNEL),6.12) --minutes $(or $(MINUTES),20) $(SEED:%=--seed %) \
		$(KILLS:%=--kills %)

check:
	selftests/check

check-full:
	selftests/check-full $(PART)

check-debug:
	selftests/check-debug $(PART)

# As its modules have it: "make kernelrelease" of Debian's headers names another one.
release = $$(sed -n 's/^.define UTS_RELEASE "\(.*\)"/\1/p' $(KDIR)/include/generated/utsrelease.h)

.PHONY: install uninstall modules_install
install: userhelper
	+$(MAKE) -f userhelper/install.mk O=$(O) install
	@if [ -f $(O)/kmod-host/spicebd.ko ]; then $(MAKE) modules_install; \
	else echo 'no module was built: only the programs are installed'; fi

# Where a kernel's own Makefile puts a module of others: extra/, or newer ones, updates/
uninstall:
	+$(MAKE) -f userhelper/install.mk O=$(O) uninstall
	@[ ! -d $(KDIR) ] || { \
		rm -f $(DESTDIR)/lib/modules/$(release)/extra/spicebd.ko* \
			$(DESTDIR)/lib/modules/$(release)/updates/spicebd.ko*; \
		$(if $(DESTDIR),:,depmod -a $(release)); \
	}

modules_install:
	$(MAKE) -C $(KDIR) M=$(O)/kmod-host O= INSTALL_MOD_PATH=$(DESTDIR) modules_install
	@# Debian's headers have no System.map, without which the above skips it.
	$(if $(DESTDIR),,depmod -a $(release))

.PHONY: clean
clean:
	rm -rf $(O)
