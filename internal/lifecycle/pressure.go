package lifecycle

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
)

// Pressure is how hard the node's processors are wanted.
type Pressure struct {
	// Stalled is the share of the last ten seconds, in percent, in which some
	// task waited for a processor (PSI, "some avg10"); -1 if unknown.
	Stalled float64
	// Runnable is how many tasks run or wait for a processor now, per core;
	// -1 if unknown. It counts where there is no PSI.
	Runnable float64
}

// startsAtOnce is how many starts may run under a pressure: most of them
// while there is room, fewer as more tasks wait, at least one. The starts of a
// batch of pods are pressure themselves, and the machine is to be kept busy by
// them: so places are taken away only where more than most starts wait for a
// processor.
func startsAtOnce(p Pressure, most int) int {
	// At no pressure above idle, and at that above full, nothing changes.
	idle, full, now := 75.0, 100.0, p.Stalled
	if now < 0 {
		idle, full, now = 3, 9, p.Runnable
	}
	if now <= idle {
		return most
	}
	left := (full - min(now, full)) / (full - idle)
	return 1 + int(left*float64(most-1))
}

// ReadPressure reads /proc. It costs some microseconds and is asked when a
// start comes or goes.
func ReadPressure() Pressure {
	p := Pressure{Stalled: -1, Runnable: -1}
	if text, err := os.ReadFile("/proc/pressure/cpu"); err == nil {
		p.Stalled = parseStalled(text)
	}
	if p.Stalled >= 0 {
		return p
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		p.Runnable = parseRunnable(text) / float64(runtime.NumCPU())
	}
	return p
}

// parseStalled reads "some avg10=1.53 avg60=…" (Documentation/accounting/psi.rst).
func parseStalled(text []byte) float64 {
	_, rest, ok := bytes.Cut(text, []byte("some avg10="))
	if !ok {
		return -1
	}
	number, _, _ := bytes.Cut(rest, []byte(" "))
	v, err := strconv.ParseFloat(string(number), 64)
	if err != nil || !(v >= 0 && v <= 100) {
		return -1
	}
	return v
}

// parseRunnable reads the first number of the fourth field of /proc/loadavg,
// "0.20 0.18 0.12 1/80 11206" (proc_loadavg(5)), less the reader itself.
func parseRunnable(text []byte) float64 {
	fields := bytes.Fields(text)
	if len(fields) < 4 {
		return -1
	}
	number, _, ok := bytes.Cut(fields[3], []byte("/"))
	v, err := strconv.ParseUint(string(number), 10, 32)
	if !ok || err != nil {
		return -1
	}
	return max(float64(v)-1, 0)
}
