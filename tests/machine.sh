# A machine of its own for a test, by qemu: a kernel of Debian and an initial file system with busybox,
# programs and their shared libraries. Sourced, by a script that has set `name`, `required` and `work`.
# shellcheck shell=bash

# What is missing here is a reason to skip.
skip() {
    echo "$name: skipped: $*" >&2
    exit "$required"
}

# Sets `kernel`; a first argument is the one to take.
find_kernel() {
    command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64 (apt-get install qemu-system-x86)"
    command -v busybox >/dev/null || skip "no busybox (apt-get install busybox-static)"
    if ldd "$(command -v busybox)" >/dev/null 2>&1; then skip "busybox is not static (apt-get install busybox-static)"; fi
    command -v cpio >/dev/null || skip "no cpio (apt-get install cpio)"
    [ "$(uname -m)" = x86_64 ] || skip "the guest is an x86_64 machine, this one is not"
    # Every test of this kind takes the same one.
    local kept package
    kept=${work%/*}/kernel
    kernel=${1:-$(ls "$kept"/boot/vmlinuz-* 2>/dev/null | tail -1 || true)}
    [ -z "$kernel" ] || return 0
    # The newer one of Debian 12, where io_uring has what is needed; later versions have it anyway.
    for package in linux-image-6.12-amd64 linux-image-amd64; do
        package=$(apt-cache depends "$package" 2>/dev/null | sed -n 's/.*Depends: //p' | head -1)
        [ -z "$package" ] || break
    done
    [ -n "$package" ] || skip "no kernel: linux-image-amd64 is not in the package lists"
    rm -rf "$kept" && mkdir -p "$kept"
    (cd "$kept" && apt-get download "$package" 2>"$work/apt.log") || skip "no kernel: see $work/apt.log"
    dpkg-deb --fsys-tarfile "$kept"/*.deb | tar -x -C "$kept" --wildcards './boot/vmlinuz-*'
    rm "$kept"/*.deb
    kernel=$(ls "$kept"/boot/vmlinuz-* | tail -1)
}

# A file system in $work/root with these programs in its root and what they are linked with; its `init` does
# the usual and then what comes on standard input.
make_root() {
    root=$work/root
    rm -rf "$root" && mkdir -p "$root"/{bin,proc,sys,dev,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    local program
    for program; do
        cp "$program" "$root/"
        strip --strip-debug "$root/${program##*/}"
    done
    ldd "$@" | grep -o '/[^ :]*\.so[^ :]*' | sort -u | while read -r library; do
        install -D "$library" "$root$library"
    done
    {
        cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ifconfig lo up
INIT
        cat
        echo "poweroff -f"
    } >"$root/init"
    chmod +x "$root/init"
}

# Runs it for at most so many seconds with these arguments of qemu (a timer of a slow, emulated machine may look
# broken to the kernel); it says `$name: status 0` when all went well.
boot() {
    local seconds=$1 started=$SECONDS
    shift
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initramfs"
    timeout "$seconds" qemu-system-x86_64 "$@" \
        -kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1 no_timer_check" \
        -nographic -no-reboot </dev/null | tee "$work/console.log" || true
    grep -q "^$name: status 0" "$work/console.log" || { echo "$name: failed, see $work/console.log" >&2; exit 1; }
    echo "$name: ok in $((SECONDS - started)) s of the guest"
}
