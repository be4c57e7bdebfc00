// Package node keeps the Node object of this machine. It owns registration
// (register.go), the lease (lease.go), the status (status.go, pure, and
// writer.go) and the table with the newest Node object (table.go), which
// admission and others read. It reads files of the machine (info.go,
// capacity.go, addresses.go) and the runtime's Status call (runtime.go).
//
// The lease and the status are written by loops that share nothing but the
// table: whatever hangs in one does not delay the other, and neither asks
// anything about a pod. Without an API server there is only the local object.
package node
