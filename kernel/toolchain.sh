# shellcheck shell=bash
# The compiler that builds the kernel: Debian 13's own, unpacked into a folder and used from there, so that the bytes do not
# depend on what the machine has installed. Sourced by kernel/build, after apt_open (apt.sh) of the suite.
#
# Nothing is installed, configured or run outside that folder; no privilege is needed, but user namespaces are.

toolchain_packages=(bash dash coreutils findutils diffutils grep sed mawk tar gzip xz-utils patch perl gcc libc6-dev binutils
  make flex bison bc cpio libelf-dev)

# toolchain_open DIR: unpacks the toolchain below DIR, once for each set of package versions; sets toolchain.
toolchain_open() {
  local dir=$1 archives=$1/archives list key deb
  local options=("${apt_options[@]}" -o "Dir::State=$dir/state" -o "Dir::State::status=$dir/none" -o "Dir::Cache::archives=$archives"
    -o Debug::NoLocking=1 -o APT::Install-Recommends=false -o APT::Get::Download-Only=true)
  mkdir -p "$archives/partial" "$dir/state"
  : >"$dir/none" # no package is installed: apt plans a whole system, and only downloads it
  list=$(apt-get "${options[@]}" --print-uris install "${toolchain_packages[@]}" | awk '{ print $2 }' | sort)
  [ -n "$list" ] || { echo "apt finds no toolchain" >&2; return 1; }
  key=$(sha256sum <<<"$list" | cut -c1-16)
  toolchain=$dir/root-$key
  [ ! -d "$toolchain" ] || return 0
  echo "==> kernel: downloading the toolchain ($(wc -l <<<"$list") packages, 90 MB)" >&2
  rm -rf "$dir"/root-* "$dir/new" "$archives"/*.deb
  apt-get "${options[@]}" install "${toolchain_packages[@]}" >/dev/null
  mkdir -p "$dir/new"/{usr/bin,usr/sbin,usr/lib,usr/lib64,proc,dev,tmp,work}
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$dir/new/"
  for deb in "$archives"/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/new" --keep-directory-symlink --no-same-owner --no-same-permissions
  done
  ln -sf mawk "$dir/new/usr/bin/awk"
  rm -f "$archives"/*.deb
  mv "$dir/new" "$toolchain"
}

# toolchain_run DIR COMMAND...: runs a command in the toolchain's root, with DIR as /work and current directory, nothing of the
# caller's environment, no network, and no process that outlives it.
toolchain_run() {
  local dir=$1
  shift
  # shellcheck disable=SC2016
  unshare --user --map-root-user --mount --net --pid --fork --kill-child sh -c '
    root=$1 dir=$2; shift 2
    mount --rbind /dev "$root/dev" && { mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"; } && mount --bind "$dir" "$root/work" && mount -t tmpfs tmp "$root/tmp" &&
      exec chroot "$root" /usr/bin/env -i -C /work PATH=/usr/sbin:/usr/bin LC_ALL=C TZ=UTC HOME=/tmp "$@"' \
    sh "$toolchain" "$dir" "$@"
}
