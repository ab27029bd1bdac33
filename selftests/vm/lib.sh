# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the scripts of this directory share. Sourced, never run.
#
# shellcheck disable=SC2034 # what one of them does not use, another does

vm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P) || exit 1

# The tree whose module is built and which a test machine sees. Another tree
# can be named, so that the launcher can be tried on a module of its own.
vm_tree=$(cd "${SPICEBD_SRC:-$vm_dir/../..}" && pwd -P) || exit 1

if [ -n "${SPICEBD_CACHE:-}" ]; then
	vm_cache=$SPICEBD_CACHE
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
	vm_cache=$XDG_CACHE_HOME/spicebd
elif [ -n "${HOME:-}" ]; then
	vm_cache=$HOME/.cache/spicebd
else
	vm_cache=/var/cache/spicebd
fi
mkdir -p "$vm_cache" || exit 1
vm_cache=$(cd "$vm_cache" && pwd -P) || exit 1

vm_kernels='6.1 6.12 7.3'
# Built here, from Debian's sources, with everything that finds faults; only
# made when it is asked for by name.
vm_debug_kernel=debug

say()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die()
{
	say "$@"
	exit 1
}

known_kernel()
{
	case " $vm_kernels $vm_debug_kernel " in
	*" $1 "*) ;;
	*) die "no such kernel: $1 (known: $vm_kernels $vm_debug_kernel)" ;;
	esac
}

# lock FILE: held until this process and its children have ended.
lock()
{
	local fd

	exec {fd}>"$1" || exit 1
	if ! flock -n "$fd"; then
		say "waiting for another run (${1##*/})"
		flock "$fd"
	fi
}

# stamp FILE…: names what was made by these files, for this cache directory
# (absolute paths of it end up in what is made).
stamp()
{
	{ printf '%s\n' "$vm_cache"; cat "$@"; } | sha256sum | cut -d' ' -f1
}

# The archive that this machine itself installs from, as apt understands its
# own sources, whatever their format. mirror: the archive of the release;
# mirror security: that of its security updates, empty if there is none.
mirror()
{
	local suite='\(bookworm\|stable\|oldstable\)' uri

	[ "${1:-}" != security ] || suite="$suite\\(-security\\|/updates\\)"
	uri=$(apt-get -o Debug::NoLocking=1 --print-uris update 2>/dev/null |
		sed -n "s#^'\\(.*\\)/dists/$suite/\\(In\\)\\?Release'.*#\\1#p" |
		head -n 1)
	[ -n "$uri" ] || [ "${1:-}" = security ] ||
		die "the apt sources of this machine name no Debian archive"
	printf '%s\n' "$uri"
}

# deb_line URI SUITE: a line for a sources.list of our own.
deb_line()
{
	local key=/usr/share/keyrings/debian-archive-keyring.gpg option=

	[ ! -e "$key" ] || option="[signed-by=$key] "
	printf 'deb %s%s %s main\n' "$option" "$1" "$2"
}

# private_apt DIRECTORY: sets apt_options to what makes apt use package lists of
# our own there (DIRECTORY/sources.list), so that nothing in /etc/apt needs to
# change, and no package counts as installed.
private_apt()
{
	mkdir -p "$1"/{lists/partial,cache/archives/partial}
	: >"$1/status"
	apt_options=(
		-q
		-o "Dir::Etc::sourcelist=$1/sources.list"
		-o Dir::Etc::sourceparts=/dev/null
		-o Dir::Etc::preferences=/dev/null
		-o Dir::Etc::preferencesparts=/dev/null
		-o "Dir::State::lists=$1/lists"
		-o "Dir::State::status=$1/status"
		-o "Dir::Cache=$1/cache"
		-o APT::Sandbox::User=root
		-o Acquire::Retries=3
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
	)
}

# bootstrap SUITE DIRECTORY PACKAGES DEB_LINE…: a Debian of our own. mmdebstrap
# starts from a clean configuration: what this machine needs to reach its
# archive is passed on.
bootstrap()
{
	local suite=$1 directory=$2 packages=$3 option options=()

	shift 3
	while read -r option; do
		options+=("--aptopt=$option")
	done < <(apt-config dump |
		grep -E '^Acquire::(http|https)::Proxy|^Acquire::Check-' || :)
	mmdebstrap --quiet --mode=root --variant=minbase "${options[@]}" \
		--include="$packages" "$suite" "$directory" "$@" >&2
	rm -rf "$directory"/var/{lib/apt/lists,cache/apt}/*
}
