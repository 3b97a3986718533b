#!/bin/sh
# Runs as mmdebstrap's customize hook in the throw-away root: compiles the ZFS kernel modules from
# the source that Debian's zfs-dkms carries, against the headers of one kernel, and leaves them in
# /out. Fixed paths, no signing key, no debug information: the same packages give the same bytes.
# Set by the builder: kernel, zfs_deb (path of the zfs-dkms package), jobs.
set -eu
root=$1
mkdir "$root/zfs-dkms"
dpkg-deb --extract "$zfs_deb" "$root/zfs-dkms"
mv "$root"/zfs-dkms/usr/src/zfs-* "$root/usr/src/zfs"
cat >"$root/usr/src/zfs/build.sh" <<EOF
set -eu
export LC_ALL=C KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=builder KBUILD_BUILD_HOST=builder
cd /usr/src/zfs
echo "headnode: configuring"
sh ./configure --with-config=kernel --with-linux=/usr/src/linux-headers-${kernel%-amd64}-common \
    --with-linux-obj=/usr/src/linux-headers-$kernel >configure.out 2>&1 ||
    { tail -n 30 configure.out >&2; exit 1; }
echo "headnode: compiling"
make -j$jobs >make.out 2>&1 || { tail -n 30 make.out >&2; exit 1; }
mkdir -p /out
find module -name '*.ko' -exec cp {} /out/ \;
strip --strip-debug /out/*.ko
test -e /out/zfs.ko && test -e /out/spl.ko
EOF
chroot "$root" sh /usr/src/zfs/build.sh
