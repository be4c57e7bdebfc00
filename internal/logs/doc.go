// Package logs reads, follows and rotates the log files of containers.
//
// A container's log is a series of files in
// <podLogsDir>/<namespace>_<pod>_<uid>/<container>/:
//
//	0.log.20060102-150405.gz   oldest
//	0.log.20060102-150412      newest rotated, left plain for log collectors
//	0.log                      what the runtime writes to (0 is the attempt)
//
// The runtime writes the files, in the format of the CRI: "time stream tags
// content". Here Rotator renames them, has the runtime open them anew,
// compresses and removes them; and Reader shows all of them as one log. Both
// read the observed table, neither writes a table, and both cost nothing while
// no container writes and nobody reads.
package logs
