// Package config turns a command line, a configuration file and drop-in files
// into one effective configuration, or into the complete list of what is wrong
// with them.
//
// It owns: the flags, the upstream defaults, the precedence (defaults, file,
// drop-ins in name order, flags that were given), the validation, the table of
// feature gates and the table that says what of all this the kubelet acts on.
// It reads the files named by --config, --config-dir and --pod-security-config,
// and nothing else of the machine: checks that need the machine live in package preflight. It
// writes nothing.
//
// Only package agent and the command read this package; every other part gets
// typed options.
package config
