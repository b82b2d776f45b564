package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// setUpHostPath checks, and for the OrCreate types makes, what the volume names. It never removes it later.
func setUpHostPath(src *corev1.HostPathVolumeSource) (Mounted, error) {
	t := corev1.HostPathUnset
	if src.Type != nil {
		t = *src.Type
	}
	if err := checkHostPath(src.Path, t); err != nil {
		return Mounted{}, err
	}
	return Mounted{HostPath: src.Path}, nil
}

func checkHostPath(path string, t corev1.HostPathType) error {
	if t == corev1.HostPathUnset {
		return nil // the runtime makes a missing folder, as it always has
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch t {
		case corev1.HostPathDirectoryOrCreate:
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("hostPath type check failed: make folder: %w", err)
			}
			return nil
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o644)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("hostPath type check failed: make file: %w", err)
			}
			if f != nil {
				return f.Close()
			}
			return nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	is := func(ok bool, what string) error {
		if err == nil && ok {
			return nil
		}
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	var mode fs.FileMode
	if err == nil {
		mode = fi.Mode()
	}
	switch t {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return is(mode.IsDir(), "directory")
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return is(mode.IsRegular(), "file")
	case corev1.HostPathSocket:
		return is(mode&fs.ModeSocket != 0, "socket file")
	case corev1.HostPathCharDev:
		return is(mode&fs.ModeCharDevice != 0, "character device")
	case corev1.HostPathBlockDev:
		return is(mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "block device")
	}
	return fmt.Errorf("hostPath type %q is unknown", t)
}
