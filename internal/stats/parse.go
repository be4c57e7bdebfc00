package stats

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// The parsers of kernel files take any bytes and keep to what they understand:
// a line in an unknown form is left out. They allocate nothing but results.

// number parses a decimal at the beginning of a file or field; "max" is
// math.MaxUint64.
func number(b []byte) (uint64, bool) {
	b = bytes.TrimSpace(b)
	if string(b) == "max" {
		return math.MaxUint64, true
	}
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// lines calls f with each line without its end.
func lines(b []byte, f func(line []byte)) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		f(line)
	}
}

// flatKeyed calls f with each line of "KEY VALUE".
// https://docs.kernel.org/admin-guide/cgroup-v2.html#format
func flatKeyed(b []byte, f func(key []byte, value uint64)) {
	lines(b, func(line []byte) {
		i := bytes.IndexByte(line, ' ')
		if i <= 0 {
			return
		}
		if n, ok := number(line[i+1:]); ok {
			f(line[:i], n)
		}
	})
}

// field cuts the first word off.
func field(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t")
	if i := bytes.IndexAny(b, " \t"); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// pressure parses a file of pressure stall information; nil if it has none.
// https://docs.kernel.org/accounting/psi.html
func pressure(b []byte) *statsapi.PSIStats {
	var psi statsapi.PSIStats
	found := false
	lines(b, func(line []byte) {
		word, rest := field(line)
		var to *statsapi.PSIData
		switch string(word) {
		case "some":
			to = &psi.Some
		case "full":
			to = &psi.Full
		default:
			return
		}
		for len(rest) > 0 {
			word, rest = field(rest)
			key, value, _ := bytes.Cut(word, []byte{'='})
			switch string(key) {
			case "avg10":
				to.Avg10 = percent(value)
			case "avg60":
				to.Avg60 = percent(value)
			case "avg300":
				to.Avg300 = percent(value)
			case "total":
				if n, ok := number(value); ok {
					to.Total, found = n, true
				}
			}
		}
	})
	if !found {
		return nil
	}
	return &psi
}

func percent(b []byte) float64 {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// diskIO is what a cgroup read from and wrote to one device.
type diskIO struct {
	major, minor                 uint64
	readBytes, writeBytes        uint64
	reads, writes                uint64
	discardBytes, discards       uint64
	hasBytes, hasCounts, isTotal bool
}

func device(b []byte) (major, minor uint64, ok bool) {
	a, c, found := bytes.Cut(b, []byte{':'})
	if !found {
		return 0, 0, false
	}
	major, ok1 := number(a)
	minor, ok2 := number(c)
	return major, minor, ok1 && ok2
}

// ioStat parses io.stat of cgroup v2: "8:0 rbytes=1 wbytes=2 rios=3 …".
func ioStat(b []byte) (disks []diskIO) {
	lines(b, func(line []byte) {
		word, rest := field(line)
		major, minor, ok := device(word)
		if !ok {
			return
		}
		d := diskIO{major: major, minor: minor}
		for len(rest) > 0 {
			word, rest = field(rest)
			key, value, _ := bytes.Cut(word, []byte{'='})
			n, ok := number(value)
			if !ok {
				continue
			}
			switch string(key) {
			case "rbytes":
				d.readBytes, d.hasBytes = n, true
			case "wbytes":
				d.writeBytes, d.hasBytes = n, true
			case "dbytes":
				d.discardBytes = n
			case "rios":
				d.reads, d.hasCounts = n, true
			case "wios":
				d.writes, d.hasCounts = n, true
			case "dios":
				d.discards = n
			}
		}
		if d.hasBytes || d.hasCounts {
			disks = append(disks, d)
		}
	})
	return disks
}

// blkio parses a file of the v1 controller, "8:0 Read 4096", and adds it to
// disks: bytes or, with counts, numbers of operations.
func blkio(b []byte, counts bool, disks []diskIO) []diskIO {
	lines(b, func(line []byte) {
		word, rest := field(line)
		major, minor, ok := device(word)
		if !ok {
			return
		}
		operation, rest := field(rest)
		n, ok := number(rest)
		if !ok {
			return
		}
		var d *diskIO
		for i := range disks {
			if disks[i].major == major && disks[i].minor == minor {
				d = &disks[i]
			}
		}
		if d == nil {
			disks = append(disks, diskIO{major: major, minor: minor})
			d = &disks[len(disks)-1]
		}
		if counts {
			d.hasCounts = true
		} else {
			d.hasBytes = true
		}
		switch {
		case string(operation) == "Read" && counts:
			d.reads = n
		case string(operation) == "Read":
			d.readBytes = n
		case string(operation) == "Write" && counts:
			d.writes = n
		case string(operation) == "Write":
			d.writeBytes = n
		case string(operation) == "Discard" && counts:
			d.discards = n
		case string(operation) == "Discard":
			d.discardBytes = n
		}
	})
	return disks
}

// netInterface is a line of /proc/PID/net/dev.
type netInterface struct {
	name string
	rxBytes, rxPackets, rxErrors, rxDropped,
	txBytes, txPackets, txErrors, txDropped uint64
}

// netDev parses /proc/PID/net/dev, without interfaces that are not the
// namespace's way out: loopback and the near ends of pods' interfaces.
// https://man7.org/linux/man-pages/man5/proc_pid_net.5.html
func netDev(b []byte) (interfaces []netInterface) {
	lines(b, func(line []byte) {
		name, rest, ok := bytes.Cut(line, []byte{':'})
		if name = bytes.TrimSpace(name); !ok || len(name) == 0 || bytes.IndexByte(name, '|') >= 0 || inward(name) {
			return
		}
		var n [16]uint64
		for i := range n {
			rest = bytes.TrimLeft(rest, " \t")
			word, after := field(rest)
			if n[i], ok = number(word); !ok {
				return
			}
			rest = after
		}
		interfaces = append(interfaces, netInterface{
			name: string(name), rxBytes: n[0], rxPackets: n[1], rxErrors: n[2], rxDropped: n[3],
			txBytes: n[8], txPackets: n[9], txErrors: n[10], txDropped: n[11],
		})
	})
	return interfaces
}

func inward(name []byte) bool {
	for _, prefix := range [...]string{"lo", "veth", "docker", "nerdctl"} {
		if len(name) >= len(prefix) && strings.EqualFold(string(name[:len(prefix)]), prefix) {
			return true
		}
	}
	return false
}
