# shellcheck shell=bash
# A private view of one Debian suite, whatever suite the machine itself runs. Sourced by kernel/build and tests/lab/kvm.
#
# Nothing of the machine's own apt state is read or changed, and no privilege is needed. The mirrors are those of the
# machine's apt sources (or $VMM_DEBIAN_MIRROR and $VMM_DEBIAN_SECURITY_MIRROR); what they send is trusted only through
# apt's own check against Debian's archive keys.

apt_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_uris: every URI of the machine's apt sources, both formats.
apt_uris() {
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    sed -nE 's/^URIs:[[:space:]]*//p; s/^deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]*)?([^[:space:]]+).*/\3/p' |
    tr -s '[:space:]' '\n'
}

# apt_open DIR SUITE: refreshes the package lists of SUITE and its security updates below DIR; sets the array apt_options.
apt_open() {
  local dir=$1 suite=$2 main security
  main=${VMM_DEBIAN_MIRROR-$(apt_uris | sed -n '\#/debian/\?$#p' | head -n 1)}
  security=${VMM_DEBIAN_SECURITY_MIRROR-$(apt_uris | sed -n '\#/debian-security/\?$#p' | head -n 1)}
  [ -n "$main" ] || { echo "No Debian mirror in the machine's apt sources: set VMM_DEBIAN_MIRROR" >&2; return 1; }
  [ -e "$apt_keyring" ] || { echo "$apt_keyring is missing: install debian-archive-keyring" >&2; return 1; }
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  {
    echo "deb [signed-by=$apt_keyring] $main $suite main"
    [ -z "$security" ] || echo "deb [signed-by=$apt_keyring] $security $suite-security main"
  } >"$dir/sources.list"
  apt_options=(-qq -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::Preferences=/dev/null
    -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  apt-get "${apt_options[@]}" update >&2
}

# apt_newest PACKAGE: the newest version on offer, or nothing.
apt_newest() {
  apt-cache "${apt_options[@]}" madison "$1" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -Vr | head -n 1
}

# apt_fetch DIR PACKAGE[=VERSION]: downloads one package into DIR and prints the file's path.
apt_fetch() {
  local dir=$1
  mkdir -p "$dir"
  (cd "$dir" && apt-get "${apt_options[@]}" download "$2" >&2)
  find "$dir" -maxdepth 1 -name "${2%%=*}_*.deb" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-
}

# apt_sha256 PACKAGE=VERSION: the hash that the signed lists give for the package file, or nothing.
apt_sha256() {
  apt-cache "${apt_options[@]}" show "$1" 2>/dev/null | awk '$1 == "SHA256:" { print $2; exit }'
}
