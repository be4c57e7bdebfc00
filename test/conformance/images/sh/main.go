// Command sh is the shell of the busybox image: busybox's ash, or bash if the
// environment has names that are no identifiers. Debian's ash keeps those from
// the programs that it starts; the one of the upstream image does not.
package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
)

func main() {
	program := "/bin/busybox"
	identifier := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); !identifier.MatchString(name) {
			program = "/bin/bash"
		}
	}
	err := syscall.Exec(program, os.Args, os.Environ())
	fmt.Fprintf(os.Stderr, "sh: run %s: %v\n", program, err)
	os.Exit(126)
}
