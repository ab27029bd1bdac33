# SPDX-License-Identifier: GPL-2.0-only
#
# Called by the top-level Makefile: make install DESTDIR= prefix=
#   prefix      /usr/local; also looked into there by systemd and udev
#   unitdir …   for a distribution that has them elsewhere

here := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
O ?= $(here)/../build
prefix ?= /usr/local
bindir ?= $(prefix)/bin
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib
sysconfdir ?= /etc
unitdir ?= $(libdir)/systemd/system
udevdir ?= $(libdir)/udev/rules.d
sysusersdir ?= $(libdir)/sysusers.d
tmpfilesdir ?= $(libdir)/tmpfiles.d
mandir ?= $(prefix)/share/man
completionsdir ?= $(prefix)/share/bash-completion/completions
INSTALL ?= install

bin_programs := spicebdctl spicebd-share
sbin_programs := spicebdd spicebd-link spicebd-nbdkit spicebd-export spicebd-supervisor \
	spicebd-mount spicebd-tls spicebd-web
objects := nbdkit-spicebd-plugin.so spicebd-memlock.so
# Beside the programs' directory, where they look for them.
plugindir := $(prefix)/lib/spicebd
# Likewise, for the browser: as it is in the tree.
pagedir := $(prefix)/share/spicebd/web
page := $(notdir $(wildcard $(here)/web/page/*))
units := $(notdir $(wildcard $(here)/systemd/*.socket))
units_in := $(notdir $(basename $(wildcard $(here)/systemd/*.service.in)))
rules := $(notdir $(wildcard $(here)/udev/*.rules))
rules_in := $(notdir $(basename $(wildcard $(here)/udev/*.rules.in)))
# As userhelper/Makefile makes them where there is rst2man.
pages := $(basename $(notdir $(wildcard $(here)/../Documentation/man/*.rst)))
page_path = $(mandir)/man$(subst .,,$(suffix $(1)))/$(1)
# Never overwritten, and removed only if it is as it came.
conf := $(sysconfdir)/spicebd/automount.conf

installed := $(addprefix $(bindir)/,$(bin_programs)) $(addprefix $(sbindir)/,$(sbin_programs)) \
	$(addprefix $(plugindir)/,$(objects)) $(addprefix $(pagedir)/,$(page)) \
	$(addprefix $(unitdir)/,$(units) $(units_in)) $(addprefix $(udevdir)/,$(rules) $(rules_in)) \
	$(sysusersdir)/spicebd.conf $(tmpfilesdir)/spicebd.conf \
	$(completionsdir)/spicebdctl $(foreach p,$(pages),$(call page_path,$(p)))

.PHONY: install install-man install-programs install-units uninstall reload
install: install-programs install-units install-man
	@$(if $(DESTDIR),:,$(MAKE) --no-print-directory -f $(here)/install.mk reload)

install-programs:
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(sbindir) $(DESTDIR)$(plugindir)
	$(INSTALL) -m 755 $(addprefix $(O)/bin/,$(bin_programs)) $(DESTDIR)$(bindir)
	$(INSTALL) -m 755 $(addprefix $(O)/bin/,$(sbin_programs)) $(DESTDIR)$(sbindir)
	$(INSTALL) -m 644 $(addprefix $(O)/bin/,$(objects)) $(DESTDIR)$(plugindir)
	$(INSTALL) -d $(DESTDIR)$(pagedir)
	$(INSTALL) -m 644 $(addprefix $(here)/web/page/,$(page)) $(DESTDIR)$(pagedir)

install-units:
	$(INSTALL) -d $(addprefix $(DESTDIR),$(unitdir) $(udevdir) $(sysusersdir) $(tmpfilesdir))
	$(INSTALL) -d $(DESTDIR)$(sysconfdir)/spicebd/links.d $(DESTDIR)$(sysconfdir)/spicebd/web.d
	$(INSTALL) -m 644 $(addprefix $(here)/systemd/,$(units)) $(DESTDIR)$(unitdir)
	for u in $(units_in); do \
		sed 's|@sbindir@|$(sbindir)|g' $(here)/systemd/$$u.in >$(DESTDIR)$(unitdir)/$$u && \
		chmod 644 $(DESTDIR)$(unitdir)/$$u || exit 1; \
	done
	$(INSTALL) -m 644 $(addprefix $(here)/udev/,$(rules)) $(DESTDIR)$(udevdir)
	for r in $(rules_in); do \
		sed 's|@sbindir@|$(sbindir)|g' $(here)/udev/$$r.in >$(DESTDIR)$(udevdir)/$$r && \
		chmod 644 $(DESTDIR)$(udevdir)/$$r || exit 1; \
	done
	[ -e $(DESTDIR)$(conf) ] || \
		$(INSTALL) -m 644 $(here)/mount/automount.conf $(DESTDIR)$(conf)
	$(INSTALL) -m 644 $(here)/systemd/spicebd.sysusers $(DESTDIR)$(sysusersdir)/spicebd.conf
	$(INSTALL) -m 644 $(here)/systemd/spicebd.tmpfiles $(DESTDIR)$(tmpfilesdir)/spicebd.conf

install-man:
	$(INSTALL) -d $(DESTDIR)$(completionsdir)
	$(INSTALL) -m 644 $(here)/completion/spicebdctl $(DESTDIR)$(completionsdir)
	for p in $(foreach p,$(pages),$(p):$(call page_path,$(p))); do \
		[ -e "$(O)/man/$${p%%:*}" ] || { echo 'no manual pages: rst2man made none'; break; }; \
		$(INSTALL) -D -m 644 "$(O)/man/$${p%%:*}" "$(DESTDIR)$${p#*:}" || exit 1; \
	done

# Into the running machine only. Nothing is enabled or started: spicebdctl does
# so when it is first used.
reload:
	@if [ -d /run/systemd/system ]; then \
		systemd-sysusers $(sysusersdir)/spicebd.conf; \
		systemd-tmpfiles --create $(tmpfilesdir)/spicebd.conf; \
		systemctl daemon-reload; \
	fi
	@if [ -S /run/udev/control ]; then \
		udevadm control --reload && udevadm trigger --subsystem-match=block --sysname-match='spicebd*'; \
	fi

uninstall:
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemctl disable --now spicebdd.socket spicebdd-status.socket spicebd-nbdkit.socket spicebd-export.socket \
			2>/dev/null || :; \
	fi
	rm -f $(addprefix $(DESTDIR),$(installed))
	! cmp -s $(here)/mount/automount.conf $(DESTDIR)$(conf) || rm -f $(DESTDIR)$(conf)
	@rmdir $(DESTDIR)$(plugindir) $(DESTDIR)$(pagedir) $(dir $(DESTDIR)$(pagedir)) 2>/dev/null || :
	@rmdir $(DESTDIR)$(sysconfdir)/spicebd/links.d $(DESTDIR)$(sysconfdir)/spicebd/web.d \
		$(DESTDIR)$(sysconfdir)/spicebd 2>/dev/null || :
