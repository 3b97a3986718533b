#!/bin/sh
# Runs as mmdebstrap's customize hook, after all packages are installed: adds the kernel, keeps the
# modules that servers need, switches off what a root in RAM has no use for, and takes out
# everything that is not wanted or differs from build to build. $1 is the root.
# Set by the builder: kernel (version), kernel_deb, zfs_modules (folder of .ko files),
# keep (file of module path prefixes).
set -eu
root=$1
export LC_ALL=C

echo "headnode: adding the kernel"
# linux-image is unpacked, not installed: it would pull in initramfs-tools.
mkdir "$root/.kernel"
dpkg-deb --extract "$kernel_deb" "$root/.kernel"
mkdir -p "$root/boot" "$root/usr/lib/modules"
mv "$root/.kernel/boot/vmlinuz-$kernel" "$root/boot/vmlinuz"
mv "$root/.kernel/boot/config-$kernel" "$root/boot/config"
mv "$root/.kernel/lib/modules/$kernel" "$root/usr/lib/modules/$kernel"
rm -rf "$root/.kernel"
modules=$root/usr/lib/modules/$kernel

echo "headnode: choosing kernel modules"
mkdir -p "$modules/extra"
cp "$zfs_modules"/*.ko "$modules/extra/"
chroot "$root" depmod "$kernel"
# modules.dep lists, for each module, all that it needs, its dependencies' dependencies included.
awk '
    FNR == NR { sub(/#.*/, ""); gsub(/[ \t]/, ""); if ($0 != "") want["kernel/" $0]; next }
    {
        file = $1; sub(/:$/, "", file)
        take = (file ~ /^extra\//)
        if (!take) for (prefix in want) if (index(file, prefix) == 1) { take = 1; break }
        if (take) { print file; for (i = 2; i <= NF; i++) print $i }
    }' "$keep" "$modules/modules.dep" | sort -u >"$root/kept"
(cd "$modules" && find kernel extra -name '*.ko' | sort >"$root/present")
comm -13 "$root/kept" "$root/present" | (cd "$modules" && xargs rm -f)
find "$modules" -depth -type d -empty -delete
rm -f "$root/kept" "$root/present" "$modules/build" "$modules/source"
chroot "$root" depmod "$kernel"

echo "headnode: setting up units"
unit_off() { for unit; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done; }
# Caches that a root in RAM never refreshes, timers for work that it does not have.
unit_off apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
    e2scrub_all.timer e2scrub_reap.service ldconfig.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service systemd-update-done.service \
    systemd-firstboot.service systemd-machine-id-commit.service systemd-pcrphase.service \
    systemd-pcrphase-initrd.service systemd-pcrphase-sysinit.service systemd-random-seed.service \
    systemd-journal-flush.service systemd-networkd-wait-online.service systemd-networkd.service \
    systemd-timesyncd.service getty-static.service systemd-binfmt.service \
    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount systemd-remount-fs.service \
    systemd-update-utmp-runlevel.service sys-kernel-debug.mount sys-kernel-tracing.mount
# Pools are imported, and their datasets mounted, by our own services.
find "$root/etc/systemd/system" -name 'zfs*' -delete
unit_off zfs-import-cache.service zfs-import-scan.service zfs-import.target zfs-mount.service \
    zfs-share.service zfs-volume-wait.service zfs-volumes.target zfs-zed.service zfs.target
chroot "$root" systemctl enable ssh.service chrony.service >/dev/null 2>&1
chroot "$root" systemctl set-default multi-user.target >/dev/null 2>&1

echo "headnode: taking out what is not needed"
cd "$root"
ln -sfn usr/lib/systemd/systemd init
# Keys belong to one machine; they are made at its first boot.
# The same goes for the host id that zfsutils-linux draws: two machines with one are worse than none.
rm -f etc/ssh/ssh_host_* etc/hostid
: >etc/machine-id
rm -f var/lib/dbus/machine-id etc/hostname etc/resolv.conf etc/hosts
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >etc/hosts
# Python comes with zfsutils-linux for arc_summary, arcstat and dbufstat only.
rm -rf usr/lib/python3* usr/share/python3 usr/bin/python3* usr/bin/pydoc3* usr/bin/pygettext3* \
    usr/bin/py3* usr/sbin/arc_summary usr/sbin/arcstat usr/sbin/dbufstat usr/bin/arc_summary \
    usr/bin/arcstat usr/bin/dbufstat usr/share/lintian usr/share/bug usr/share/bash-completion
rm -rf usr/lib/udev/hwdb.d usr/lib/udev/hwdb.bin etc/udev/hwdb.bin
rm -rf usr/share/man usr/share/info usr/share/locale usr/share/i18n usr/share/zoneinfo/right \
    usr/share/zoneinfo/posix usr/share/doc-base \
    usr/lib/systemd/catalog var/lib/systemd/catalog usr/share/initramfs-tools usr/lib/x86_64-linux-gnu/gconv \
    usr/share/perl5/debian* usr/share/polkit-1 usr/share/zsh usr/share/nano/extra
# Never /tmp: mmdebstrap has its apt configuration there, and without it would clean up the lists of
# this machine's own apt. The builder leaves out /tmp, /run and apt's folders itself.
rm -rf var/cache/* var/log/* var/tmp/* var/lib/dpkg/info \
    var/lib/dpkg/*-old var/lib/dpkg/lock* var/lib/dpkg/triggers var/lib/dpkg/available \
    var/lib/ucf var/lib/systemd/random-seed var/lib/systemd/deb-systemd-* var/lib/pam/seen \
    var/backups/* etc/*- var/cache/ldconfig/aux-cache
rm -rf etc/zfs/zed.d etc/zfs/zpool.cache
# Folders that only their package makes, not their service.
mkdir -p var/log/chrony
chroot . chown _chrony:_chrony /var/log/chrony
