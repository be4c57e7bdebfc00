// Package harness makes whole test nodes: a network, mount, PID and UTS
// namespace in which containerd, a kubelet and, if wanted, etcd and a control
// plane run under their usual paths. Nothing of the machine is touched but
// cgroups below a root of the node's own, and one kill of the node's first
// process ends everything in it, whatever became of the test.
//
// The package is for tests and benchmarks. A program that uses it calls Main
// (tests) or RunIfInit (others) first thing: the first process of a node is
// the program itself, started anew.
package harness
