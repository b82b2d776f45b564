package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The recipe. What is below is hashed: a change makes a new disk.
const (
	suite    = "bookworm"
	diskSize = "4G" // sparse
)

var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "linux-image-cloud-amd64", "initramfs-tools", "zstd",
	"apparmor", "containerd", "runc", "crun", "containernetworking-plugins", "busybox-static",
	"iptables", "nftables", "ipset", "ipvsadm", "conntrack",
}

// finish runs in the new root, without a network.
const finish = `set -eu
export DEBIAN_FRONTEND=noninteractive
echo vm > etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n' > etc/hosts
printf '/dev/vda / ext4 defaults,noatime 0 1\n' > etc/fstab
: > etc/machine-id
rm -f etc/resolv.conf; printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' > etc/resolv.conf
mkdir -p payload
cat > etc/systemd/system/reeve-guest.service <<'UNIT'
[Unit]
Description=Runs the commands of the host's tests
DefaultDependencies=no
Requires=dev-virtio\x2dports-reeve.device dev-vdb.device
After=dev-virtio\x2dports-reeve.device dev-vdb.device local-fs.target basic.target
[Service]
ExecStartPre=/bin/mount -o ro /dev/vdb /payload
ExecStart=/payload/guest /dev/virtio-ports/reeve
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LimitNOFILE=1048576
TasksMax=infinity
Delegate=yes
UNIT
cat > etc/udev/rules.d/99-reeve.rules <<'UDEV'
SUBSYSTEM=="virtio-ports", ATTR{name}=="reeve", TAG+="systemd"
UDEV
mkdir -p etc/systemd/system/multi-user.target.wants
ln -sf ../reeve-guest.service etc/systemd/system/multi-user.target.wants/reeve-guest.service
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service ipvsadm.service containerd.service; do
  ln -sf /dev/null etc/systemd/system/$unit
done
rm -f etc/systemd/system/containerd.service
rm -f etc/systemd/system/multi-user.target.wants/containerd.service
rm -rf var/cache/apt var/lib/apt/lists usr/share/doc usr/share/man usr/share/locale
`

func recipeHash() string {
	sum := sha256.Sum256([]byte(strings.Join(append(packages, suite, diskSize, finish), "\n")))
	return hex.EncodeToString(sum[:8])
}

// image is a bootable disk with its kernel.
type image struct{ disk, kernel, initrd string }

func imageAt(dir string) image {
	return image{filepath.Join(dir, "disk.ext4"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")}
}

const (
	// buildTimeout bounds debootstrap: 80 s on an idle host, three times that on a busy one, and mirrors are slow at times.
	buildTimeout = 15 * time.Minute
	// keepImages is how long disks of other recipes stay for a return to them.
	keepImages = 7 * 24 * time.Hour
)

// Missing says what this host lacks for virtual machines, or nil.
func Missing() error {
	for _, program := range []string{"qemu-system-x86_64", "debootstrap", "mke2fs", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("needs the program %s", program)
		}
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root, for debootstrap")
	}
	_, err := mirror()
	return err
}

// Image makes the machine's disk, unless it is in the cache, and answers its folder. Processes that want it at once wait
// for one of them to make it.
func Image(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home
	}
	base := filepath.Join(cache, "reeve-test", "vm")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(base, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // frees the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", base, err)
	}
	dir := filepath.Join(base, recipeHash())
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		return dir, os.Chtimes(dir, now, now)
	}
	old, _ := filepath.Glob(filepath.Join(base, "*"))
	for _, o := range old {
		if fi, err := os.Stat(o); err == nil && fi.IsDir() && (strings.HasPrefix(filepath.Base(o), "new-") || time.Since(fi.ModTime()) > keepImages) {
			os.RemoveAll(o)
		}
	}
	tmp, err := os.MkdirTemp(base, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", fmt.Errorf("make the virtual machine's disk: %w", err)
	}
	return dir, os.Rename(tmp, dir)
}

// build makes disk, kernel and initrd in dir. Whatever it mounts and starts is in namespaces that end with it.
func build(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	from, err := mirror()
	if err != nil {
		return err
	}
	const script = `set -eu
cd "$1"
debootstrap --variant=minbase --include="$2" "$3" root "$4" >debootstrap.log 2>&1 || { tail -20 debootstrap.log root/debootstrap/debootstrap.log >&2; exit 1; }
umount -R root/proc root/sys 2>/dev/null || true
cp root/boot/vmlinuz-* vmlinuz
cp root/boot/initrd.img-* initrd.img
(cd root && sh -c "$5")
mke2fs -q -t ext4 -E root_owner=0:0 -d root disk.ext4 "$6"
rm -rf root debootstrap.log
`
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
		"sh", "-c", script, "sh", dir, strings.Join(packages, ","), suite, from, finish, diskSize)
	cmd.Env = append(os.Environ(), proxies()...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := runTied(cmd); err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	return nil
}
