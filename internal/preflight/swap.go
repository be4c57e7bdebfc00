package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// checkSwap looks for swap in use: /proc/swaps has a heading and one line for
// each device or file (proc_swaps(5)).
func checkSwap(_ context.Context, cfg *Config, r *Report) error {
	r.TmpfsNoswap = !r.UserNamespace && kernelAtLeast(cfg.Root, 6, 4)
	text, err := readLine(cfg.Root, "proc/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return fmt.Errorf("read /proc/swaps: %w", reason(err))
	}
	var names []string
	for i, line := range strings.Split(text, "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			names = append(names, fields[0])
		}
	}
	r.SwapOn = len(names) > 0
	switch {
	case !r.SwapOn:
		return nil
	case cfg.FailSwapOn:
		return fmt.Errorf("swap is on (%s): turn it off (swapoff -a, /etc/fstab), or set failSwapOn: false", strings.Join(names, ", "))
	case !r.TmpfsNoswap:
		r.warn("swap is on (%s) and this kernel cannot keep tmpfs out of it: secrets and memory-backed volumes may reach the disk", strings.Join(names, ", "))
	}
	return nil
}

// kernelAtLeast compares the kernel's release with major.minor.
func kernelAtLeast(root string, major, minor int) bool {
	release, err := readLine(root, "proc/sys/kernel/osrelease")
	if err != nil {
		return false
	}
	number := func(s string) int {
		end := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
		if end >= 0 {
			s = s[:end]
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return -1
		}
		return n
	}
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	return number(first) > major || number(first) == major && number(second) >= minor
}
