// Package stats reads how much the node, its pods and their containers use,
// when somebody asks: /stats/summary (summary.go), /metrics/resource
// (resource.go) and /metrics/cadvisor (cadvisor.go).
//
// It owns the open files of the cgroups that it reads and a short cache of
// what they said; it reads cgroup files (v1 and v2), /proc, the tables of pods
// and containers through its Config, and file systems. It writes nothing.
//
// Nothing happens while nobody asks. A cgroup's files stay open from one
// question to the next and are closed after some minutes without one. Usage
// rates are taken over the sample of an earlier question. What can hang or
// takes long (statfs, walks over directories, calls to the runtime) runs
// beside the question, at most once at a time for each object, and is bounded:
// a question waits for it a moment and otherwise gets the last known answer.
package stats
